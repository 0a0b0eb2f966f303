"""The editor's training step as it is usually written in PyTorch; `bench_training` times it.

One sample and one row at a time, from pixels, with a hook behind the edit layer. Whatever needs a
row's states at that layer runs the frozen model again: the whole of it, or (`stop`) up to that
layer. The loss is ours; the optimiser is Adam, which costs less than Muon.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.reference.textbook import Pool, Textbook
from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.config import EditorTrainConfig
from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.editor.objective import Masks, Pairs
from liveedit_jax.types import Role


@dataclass
class Row:
    """One unpadded row."""

    ids: Tensor  # [1, T]
    pixels: Tensor  # [1, 3, S, S]
    prompt: slice
    answer: slice


@dataclass
class StepDraws:
    """The random numbers of a step: see `editor.objective` and `training.editor.blend_images`."""

    masks: Masks
    pairs: Pairs
    other: np.ndarray  # [N], whose image is blended in
    share: np.ndarray  # [N], how much of it


class _StopForward(Exception):
    """Ends a forward pass whose later layers are not needed."""


class TextbookTraining:
    """The training step; `net` is transformers' LLaVA, `book` the editor as tensors."""

    def __init__(
        self,
        cfg: BackboneConfig,
        recipe: EditorTrainConfig,
        net,
        book: Textbook,
        image_id: int,
        stop: bool = True,
    ):
        """Freeze the model and make the editor's weights trainable."""
        self.stop = stop
        self.cfg, self.recipe, self.net, self.book = cfg, recipe, net, book
        self.image_id = image_id
        self.layer = net.model.language_model.layers[cfg.edit_layer]
        net.requires_grad_(False)
        leaves = [leaf.requires_grad_() for leaf in _leaves(book.p)]
        self.optimizer = torch.optim.Adam(leaves, lr=recipe.learning_rate)

    def rows(self, batch: EditingBatch, picture: Callable[[int], np.ndarray]) -> list[list[Row]]:
        """Split a batch into unpadded rows, [N][4]."""
        found = []
        for j in range(batch.token.shape[1]):
            found.append([])
            for kind in range(4):
                role = batch.role[kind, j]
                n = int((role != Role.PAD).sum())
                ids = np.where(role == Role.VISION, self.image_id, batch.token[kind, j])[:n]
                pixels = np.moveaxis(picture(int(batch.picture[kind, j])), -1, 0)
                first = 1 + self.cfg.vision_n
                end = first + int((role == Role.PROMPT).sum())
                found[-1].append(
                    Row(
                        torch.tensor(ids, dtype=torch.long)[None], torch.tensor(pixels)[None],
                        slice(first, end), slice(end, n),
                    )
                )  # fmt: skip
        return found

    @contextmanager
    def hook_layer(self, hook):
        """Run with `hook` behind the edit layer."""
        handle = self.layer.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def forward(self, row: Row) -> Tensor:
        """Compute the logits [T, V] of a row."""
        return self.net(input_ids=row.ids, pixel_values=row.pixels).logits[0]

    @torch.no_grad()
    def states(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the edit layer's states of image, prompt and answer."""
        seen = []

        def catch(module, args, out):
            seen.append(out[0] if isinstance(out, tuple) else out)
            if self.stop:
                raise _StopForward

        with self.hook_layer(catch):
            try:
                self.forward(row)
            except _StopForward:
                pass
        hidden = seen[0].reshape(-1, seen[0].shape[-1])
        return hidden[1 : row.prompt.start], hidden[row.prompt], hidden[row.answer]

    def edited_logits(self, row: Row, pool: Pool, mask: Tensor) -> Tensor:
        """Compute the logits with the experts in `mask`, weighted by the row's prompt."""

        def add(module, args, out):
            hidden = (out[0] if isinstance(out, tuple) else out).reshape(-1, self.cfg.width)
            text = self.book.text(self.book.p["input"], hidden[row.prompt])
            score = torch.einsum("em,nem->n", text, pool.text_key[mask]) / self.unit
            weight = score.softmax(0) * score.sigmoid()
            added = self.book.residual(pool.down[mask], pool.up[mask], weight, hidden)
            fresh = (hidden + added)[None]
            return (fresh, *out[1:]) if isinstance(out, tuple) else fresh

        with self.hook_layer(add):
            return self.forward(row)

    @property
    def unit(self) -> float:
        """Return the divisor of inner products of keys."""
        return self.book.cfg.queries_n * self.book.cfg.module_width**0.5

    def nll(self, row: Row, logits: Tensor) -> Tensor:
        """Compute the mean negative log-likelihood of the answer and EOS."""
        label = F.pad(row.ids[0, row.answer], (0, 1), value=self.cfg.eos_id)
        return F.cross_entropy(logits[row.answer.start - 1 :], label)

    def locality(self, row: Row, logits: Tensor) -> Tensor:
        """Compute the mean KL divergence of edited from original predictions of the answer."""
        where = slice(row.answer.start - 1, row.answer.stop - 1)
        with torch.no_grad():
            original = self.forward(row)[where].log_softmax(-1)
        edited = logits[where].log_softmax(-1)
        return (edited.exp() * (edited - original)).sum(-1).mean()

    def edit_loss(self, rows: list[list[Row]], masks: Masks) -> Tensor:
        """Compute the loss of reliability, both generalities and image locality over B samples."""
        made = [self.book.make_expert(*self.states(sample[0])) for sample in rows]
        pool = Pool(**{f.name: torch.cat([getattr(e, f.name) for e in made]) for f in fields(Pool)})
        total = torch.zeros(())
        for b, sample in enumerate(rows):
            for kind, which in enumerate(("reliability", "generality", "generality")):
                mask = torch.tensor(np.array(getattr(masks, which)[b]))
                total = total + self.nll(sample[kind], self.edited_logits(sample[kind], pool, mask))
            mask = torch.tensor(np.array(masks.locality[b]))
            total = total + self.locality(sample[3], self.edited_logits(sample[3], pool, mask))
        return total / len(rows)

    def features(self, row: Row, name: str, other: Row, share: float) -> tuple[Tensor, ...]:
        """Compute one side's text, vision and sentinel features; the image is blended first."""
        image, prompt, _ = self.states(row)
        if share:
            image = (1 - share) * image + share * self.states(other)[0]
        side = self.book.p[name]
        text, vision = self.book.text(side, prompt), self.book.vision(side, prompt, image)
        sentinel = self.book.vision(side, prompt, side["sentinel"]) if name == "input" else vision
        return text.flatten(), vision.flatten(), sentinel.flatten()

    def routing_loss(self, rows: list[list[Row]], drawn: StepDraws, subject: np.ndarray) -> Tensor:
        """Compute the soft and hard routing losses over N samples.

        Pairs about the same subject are not negatives.
        """
        total, n = torch.zeros(()), len(rows)

        def side(name: str, kinds: np.ndarray) -> list[tuple[Tensor, ...]]:
            return [
                self.features(rows[j][k], name, rows[drawn.other[j]][k], float(drawn.share[j]))
                for j, k in enumerate(kinds)
            ]

        for kinds, neighbours in ((drawn.pairs.neighbours, True), (drawn.pairs.others, False)):
            kinds = np.asarray(kinds)
            first, second = side("input", kinds[0]), side("edit", kinds[1])
            text0, vision0, sentinel = (torch.stack(part) for part in zip(*first, strict=True))
            text1, vision1, _ = (torch.stack(part) for part in zip(*second, strict=True))
            index = np.arange(n)
            same = torch.tensor(subject[index, kinds[0]][:, None] == subject[index, kinds[1]][None])
            total = total + self.hard(
                vision0 @ vision1.T / self.unit,
                (vision0 * sentinel).sum(-1) / self.unit,
                neighbours,
                same,
            )
            if neighbours:
                total = total + _soft(text0 @ text1.T / self.unit)
        return total

    def hard(self, score: Tensor, threshold: Tensor, neighbours: bool, same: Tensor) -> Tensor:
        """Compute InfoNCE against the batch and the sentinel."""
        n, recipe = len(score), self.recipe
        negative = ~torch.eye(n, dtype=torch.bool) if neighbours else torch.ones(n, n) > 0
        if recipe.routing_repository_n is not None:
            score = torch.where(negative, score + np.log(recipe.routing_repository_n / n), score)
        if recipe.routing_skip_same:
            score = torch.where(negative & same, -1e30, score)
        p = torch.cat([score, threshold[:, None]], 1).softmax(1)
        return -((p[:, :-1].diagonal() if neighbours else p[:, -1]) + 1e-8).log().mean()

    def loss(self, batch: EditingBatch, picture, drawn: StepDraws) -> Tensor:
        """Compute the loss of a step."""
        rows = self.rows(batch, picture)
        edits = self.edit_loss(rows[: self.recipe.batch_n], drawn.masks)
        return edits + self.routing_loss(rows, drawn, batch.picture.T // 2)

    def step(self, *args) -> float:
        """Make one optimiser step; returns the loss."""
        self.optimizer.zero_grad()
        loss = self.loss(*args)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _soft(score: Tensor) -> Tensor:
    apart = torch.sigmoid(-score[torch.arange(len(score)), torch.arange(len(score)) - 1])
    relative = -(score.softmax(1).diagonal() + 1e-8).log().mean()
    together = score.diagonal().sigmoid()
    return relative - ((together + 1e-8).log() + (apart + 1e-8).log()).mean()


def _leaves(tree: dict) -> list[Tensor]:
    found = []
    for value in tree.values():
        found += _leaves(value) if isinstance(value, dict) else [value]
    return found
