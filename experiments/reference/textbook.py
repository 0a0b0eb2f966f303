"""LiveEdit as it is usually written in PyTorch; `scale_repository` compares ours with it.

One sample at a time, every token projected, pools grown by torch.cat, hits taken by boolean
indexing. The weights are ours, converted by `tensors`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveedit_jax.config import EditorConfig


def tensors(params: dict) -> dict:
    """Convert our editor weights to tensors; kernels are transposed, as torch's Linear has them."""

    def convert(path, leaf) -> Tensor:
        array = np.array(leaf)
        return torch.from_numpy(array.T.copy() if path[-1].key == "kernel" else array)

    return jax.tree_util.tree_map_with_path(convert, params)


def attend(p: dict, x: Tensor, y: Tensor, heads_n: int) -> Tensor:
    """Apply multi-head cross-attention of x [N, M] over y [T, D], without output projection."""
    q, k, v = (
        F.linear(z, p[name]["kernel"], p[name]["bias"]).unflatten(-1, (heads_n, -1))
        for name, z in (("q", x), ("k", y), ("v", y))
    )
    scores = torch.einsum("nhc,thc->hnt", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hnt,thc->nhc", scores.softmax(-1), v).flatten(1)


@dataclass
class Pool:
    """The stored experts of N edits."""

    text_key: Tensor  # [N, E, M]
    vision_key: Tensor  # [N, E, M]
    down: Tensor  # [N, R, D]
    up: Tensor  # [N, R, D]


def append(pool: Pool, expert: Pool) -> Pool:
    """Append an expert to a pool."""
    return Pool(
        **{
            f.name: torch.cat([getattr(pool, f.name), getattr(expert, f.name)])
            for f in fields(Pool)
        }
    )


class Textbook:
    """The editor's functions on one sample."""

    def __init__(self, cfg: EditorConfig, params: dict):
        """Hold the weights; `params` are those of `tensors`."""
        self.cfg, self.p = cfg, params

    def norm(self, p: dict, x: Tensor) -> Tensor:
        """Apply LayerNorm."""
        return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], self.cfg.norm_eps)

    def vision(self, side: dict, prompt: Tensor, image: Tensor) -> Tensor:
        """Compute the vision feature [E, M] of an image, given the prompt."""
        heads_n = self.cfg.heads_n
        query = attend(
            side["prompt_attention"],
            side["vision_query"],
            self.norm(side["norm1"], prompt),
            heads_n,
        )
        return attend(side["vision_attention"], query, self.norm(side["norm1"], image), heads_n)

    def text(self, side: dict, prompt: Tensor) -> Tensor:
        """Compute the text feature [E, M] of a prompt."""
        tokens = self.norm(side["norm2"], prompt)
        return attend(side["text_attention"], side["text_query"], tokens, self.cfg.heads_n)

    def generate(self, p: dict, states: Tensor) -> Tensor:
        """Generate one side [R, D] of an expert's body."""
        heads_n = self.cfg.generator_heads_n or self.cfg.heads_n
        out = attend(p["attention"], p["query"], self.norm(p["norm"], states), heads_n)
        return out / (self.cfg.expert_scale * self.cfg.rank**0.5)

    def make_expert(self, image: Tensor, prompt: Tensor, answer: Tensor) -> Pool:
        """Generate the expert of one edit, as a pool of one."""
        states, side = torch.cat([image, prompt, answer]), self.p["edit"]
        return Pool(
            self.text(side, prompt)[None],
            self.vision(side, prompt, image)[None],
            self.generate(self.p["down"], states)[None],
            self.generate(self.p["up"], states)[None],
        )

    def route(self, pool: Pool, image: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Route a query: which experts it hits, bool [N], and the weights of those."""
        side, unit = self.p["input"], self.cfg.queries_n * self.cfg.module_width**0.5
        vision = self.vision(side, prompt, image)
        sentinel = self.vision(side, prompt, side["sentinel"])
        score = torch.einsum("em,nem->n", vision, pool.vision_key) / unit
        hit = score > (vision * sentinel).sum() / unit
        score = torch.einsum("em,nem->n", self.text(side, prompt), pool.text_key[hit]) / unit
        return hit, score.softmax(0) * score.sigmoid()

    def residual(self, down: Tensor, up: Tensor, weight: Tensor, states: Tensor) -> Tensor:
        """Compute what K experts add to states [T, D]."""
        gate = torch.einsum("td,krd->tkr", self.norm(self.p["norm"], states), down).relu()
        return torch.einsum("tkr,krd,k->td", gate, up, weight)

    def query(self, pool: Pool, image: Tensor, prompt: Tensor) -> Tensor:
        """Return the states of one query (VISION, then PROMPT) plus what its experts add."""
        states = torch.cat([image, prompt])
        hit, weight = self.route(pool, image, prompt)
        if not hit.any():
            return states
        return states + self.residual(pool.down[hit], pool.up[hit], weight, states)
