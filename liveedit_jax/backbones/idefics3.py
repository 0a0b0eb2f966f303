"""Idefics3 and SmolVLM: a SigLIP tower, pixel shuffle and one linear layer, in front of Llama.

The two are one architecture under two names. `idefics3_pictures` has what their processor does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from einops import rearrange
from jaxtyping import Array, Float

from liveedit_jax.backbone_config import BackboneConfig, BridgeConfig, RematPolicy, VisionConfig
from liveedit_jax.backbones.convert import Rule, transpose
from liveedit_jax.backbones.family import Part, Split
from liveedit_jax.backbones.idefics3_pictures import (
    CLOSING,
    find_chat,
    processor_files,
    read_pictures,
)
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.backbones.published import (
    CONFIG,
    Field,
    check_numbers,
    paper_layer,
    part_of,
    read_llama,
    read_triple,
    refuse_differences,
    special_ids,
)
from liveedit_jax.backbones.siglip_vision import SiglipConfig, read_siglip, siglip_rules
from liveedit_jax.backbones.tables import llama_rules

MODEL_TYPES = ("idefics3", "smolvlm")
VISION = {  # what an absent field of a tower's config is
    **{"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12},
    **{"num_attention_heads": 16, "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-6},
}
# Patches a side for which the original's rounding gives some patches the position of another.
MISNUMBERED = {19, 25, 29, 31, 38, 40, 41, 43, 47, 49, 50}
SIDE_MOST = 52  # patches a side up to which that set is complete


@dataclass(frozen=True, kw_only=True)
class ShuffleConfig(BridgeConfig):
    """A bridge that joins `factor` x `factor` neighbouring patches to one token."""

    factor: int = 2

    def features_n(self, vision: VisionConfig) -> int:
        """Return the number of tokens of a tile."""
        return vision.tokens_n // self.factor**2


class PixelShuffle(nn.Module):
    """The bridge: neighbouring patches side by side, in reading order, through a linear layer."""

    factor: int
    width: int  # D

    @nn.compact
    def __call__(self, x: Float[Array, "B P W"]) -> Float[Array, "B Q D"]:
        """Join patches and project them."""
        n = self.factor
        side = int(x.shape[1] ** 0.5) // n
        x = rearrange(x, "b (h i w j) d -> b (h w) (i j d)", h=side, w=side, i=n, j=n)
        return nn.Dense(self.width, use_bias=False, name="linear")(x)


def _create(cfg: BackboneConfig, place: Placement | None) -> nn.Module:
    assert isinstance(cfg.bridge, ShuffleConfig)
    return PixelShuffle(cfg.bridge.factor, cfg.width)


SHUFFLE = Part(config=ShuffleConfig, create=_create, splits={"linear": Split.COLUMN})


def rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a config."""
    assert isinstance(cfg.vision, SiglipConfig)
    bridge = r"(?:model\.)?connector\.modality_projection\.proj\.weight"
    return [
        *siglip_rules(cfg.vision, r"(?:model\.)?vision_model\."),
        Rule(bridge, "projector/linear/kernel", transpose),
        *llama_rules(cfg, r"(?:model\.)?text_model\.", r"lm_head\."),
    ]


def read(files: Mapping[str, Any]) -> BackboneConfig:
    """Read the architecture from a checkpoint's JSON files (`published.read_files`).

    Raises:
        ValueError: a field that changes the result has a value that is not supported; names it.
    """
    config, (processor, _) = files[CONFIG], processor_files(files)
    refuse_differences(config, [Field("quantization_config", None, None)])
    check_numbers(config, {"scale_factor": 2})
    bridge = ShuffleConfig(factor=config.get("scale_factor", 2))
    vision = VISION | part_of(config, "vision_config")
    mean, std = (read_triple(processor, name) for name in ("image_mean", "image_std"))
    tower = read_siglip(vision, mean, std, "vision_config.")
    n = tower.side_n
    if n in MISNUMBERED or n > SIDE_MOST or n == 0 or n % bridge.factor:
        raise ValueError(
            f"not supported: vision_config.image_size {tower.image_size} with patch_size "
            f"{tower.patch_size} ({n} patches a side) and scale_factor {bridge.factor}"
        )
    text = {"model_type": "llama", "rms_norm_eps": 1e-5, **part_of(config, "text_config")}
    # the head follows the whole model's field, not the text's own
    text["tie_word_embeddings"] = config.get("tie_word_embeddings", False)
    decoder = read_llama(text, "text_config.")
    return BackboneConfig(
        vision=tower,
        bridge=bridge,
        decoder=decoder,
        edit_layer=paper_layer(decoder.layers_n),
        **special_ids(files, text),
        after_image=CLOSING,
        chat=find_chat(files),
        tiles=read_pictures(files, tower.image_size, bridge.features_n(tower)),
        keep=RematPolicy.INPUTS,
    )
