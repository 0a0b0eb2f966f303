"""Conversion of MiniGPT-4 from its four sources: EVA ViT-g, BLIP-2's Q-Former, projection, Vicuna.

The first two have the names of the projects that trained them: a ViT as in timm but without a key
bias, and a BERT with queries. `join` prefixes each name with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from liveedit_jax.backbone_config import BackboneConfig, EvaConfig, QFormerConfig, as_kind
from liveedit_jax.backbones.convert import Rule, linear_rules, norm_rules
from liveedit_jax.backbones.tables import eva_rules, llama_rules, qformer_rules
from liveedit_jax.backbones.tensors import read_tensors, weight_files

LAYER = r"vit:blocks\.(?P<layer>\d+)\."
EVA = {
    "cls": r"vit:cls_token",
    "position": r"vit:pos_embed",
    "patch": r"vit:patch_embed\.proj",
    "norm_last": r"qformer:ln_vision",
    "qkv": r"attn\.qkv",
    "o": r"attn\.proj",
    "fc1": r"mlp\.fc1",
    "fc2": r"mlp\.fc2",
    "norm1": r"norm1",
    "norm2": r"norm2",
}
FILES = {
    "vit": "eva_vit_g.pth",
    "qformer": "blip2_pretrained_flant5xxl.pth",
    "projection": "pretrained_minigpt4_7b.pth",
}
LANGUAGE = "vicuna"  # a folder


def rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a config; names are prefixed with their source."""
    vision, bridge = as_kind(cfg.vision, EvaConfig), as_kind(cfg.bridge, QFormerConfig)
    layers = range(vision.layers_n)
    bert = r"qformer:Qformer\.bert\."
    return [
        *eva_rules(vision, EVA, LAYER),
        *(
            Rule(LAYER + rf"attn\.{n}_bias", f"vision/layers/{n}/bias", layers=layers)
            for n in "qkv"
        ),
        # the file has one block more than BLIP-2 uses, and a head
        Rule(LAYER + ".*", None, layers=range(vision.layers_n, vision.layers_n + 1)),
        Rule(r"vit:(?:norm|fc_norm|head)\..*", None),
        Rule(r"vit:.*rel_pos.*|vit:mask_token", None),
        Rule(r"qformer:query_tokens", "projector/query", lambda array: array[0]),
        *norm_rules(bert + r"embeddings\.LayerNorm", "projector/norm"),
        *qformer_rules(bridge, bert + r"encoder\.layer\.{i}\.", {"inner": "self"}),
        # the Q-Former's MLPs and embeddings for text, and heads of other models in the same file
        Rule(bert + r"encoder\.layer\.\d+\.(?:intermediate|output)\..*", None),
        Rule(bert + r"embeddings\.(?:word_embeddings|position_embeddings|position_ids).*", None),
        Rule(r"qformer:Qformer\.cls\..*", None),
        Rule(r"qformer:(?:t5_proj|opt_proj|llama_proj|vision_proj|text_proj|itm_head)\..*", None),
        Rule(r"qformer:temp", None),
        *linear_rules(r"projection:llama_proj", "projector/linear"),
        *llama_rules(cfg, r"language:model\.", r"language:lm_head\."),
    ]


class _Named(Mapping):
    """Several mappings in one, with the name of the mapping in front of each key."""

    def __init__(self, parts: Mapping[str, Mapping[str, np.ndarray]]):
        self.parts = parts
        self.names = [f"{part}:{name}" for part, inner in parts.items() for name in inner]

    def __getitem__(self, name: str) -> np.ndarray:
        part, inner = name.split(":", 1)
        return self.parts[part][inner]

    def __iter__(self):
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def join(
    cfg: BackboneConfig, parts: Mapping[str, Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """Join the four sources into one mapping; EVA's missing key biases become zeros."""
    vit = dict(parts["vit"].items())
    for i in range(as_kind(cfg.vision, EvaConfig).layers_n):
        if f"blocks.{i}.attn.q_bias" in vit:
            vit[f"blocks.{i}.attn.k_bias"] = np.zeros_like(vit[f"blocks.{i}.attn.q_bias"])

    def inside(part: str) -> Mapping:
        stored = parts[part]  # both files keep their tensors under "model"
        return {name.removeprefix("model."): stored[name] for name in stored}

    projection = inside("projection")
    return _Named(
        {
            "vit": vit,
            "qformer": inside("qformer"),
            "projection": {n: projection[n] for n in projection if n.startswith("llama_proj.")},
            "language": parts["language"],
        }
    )


def sources(folder: Path) -> dict[str, list[Path] | Path]:
    """Find the four sources in a folder: lists of files, and a folder for the language model.

    Raises:
        FileNotFoundError: a source is missing; the message says which one and what it is.
    """
    found: dict[str, list[Path] | Path] = {}
    for part, name in FILES.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} lacks {name}: MiniGPT-4 is made of {', '.join(FILES.values())} and a "
                f"folder {LANGUAGE}/ with Vicuna's Hugging Face weights"
            )
        found[part] = [folder / name]
    if not (folder / LANGUAGE).is_dir():
        raise FileNotFoundError(f"{folder} lacks the folder {LANGUAGE}/ with Vicuna's weights")
    return found | {"language": folder / LANGUAGE}


def open_folder(cfg: BackboneConfig, folder: Path) -> Mapping[str, np.ndarray]:
    """Open the named tensors of the four sources in a folder; they are read on access.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    parts = {
        part: read_tensors(weight_files(where) if isinstance(where, Path) else where)
        for part, where in sources(folder).items()
    }
    return join(cfg, parts)
