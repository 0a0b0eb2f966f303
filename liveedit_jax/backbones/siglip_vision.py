"""The SigLIP vision tower (ViT, pre-norm, no CLS), with its table and the reading of its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from liveedit_jax.backbone_config import Activation, BackboneConfig, Triple, VitConfig
from liveedit_jax.backbones.activations import ACTIVATIONS
from liveedit_jax.backbones.convert import Rule, linear_rules, norm_rules, patch_kernel
from liveedit_jax.backbones.family import TRANSFORMER, Part, Split
from liveedit_jax.backbones.placement import Placement
from liveedit_jax.backbones.published import Field, check_numbers, refuse_differences
from liveedit_jax.backbones.tables import LAYER
from liveedit_jax.backbones.vit import patches, vit_stack


@dataclass(frozen=True, kw_only=True)
class SiglipConfig(VitConfig):
    """A SigLIP tower: no CLS, learned positions, a final norm."""

    norm_eps: float = 1e-6
    activation: Activation = Activation.GELU_TANH
    image_mean: Triple = (0.5,) * 3
    image_std: Triple = (0.5,) * 3

    @property
    def side_n(self) -> int:
        """Return the number of patches along a side; what is left over is not seen."""
        return self.image_size // self.patch_size

    @property
    def tokens_n(self) -> int:
        """Return the number of features per image, one per patch."""
        return self.side_n**2


class SiglipVision(nn.Module):
    """SigLIP's tower: patch embedding with a bias, learned positions, layers, and a norm."""

    cfg: SiglipConfig
    place: Placement | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "B S S 3"]) -> Float[Array, "B P W"]:
        """Return the normalised states of the last layer."""
        cfg = self.cfg
        seen = cfg.side_n * cfg.patch_size
        x = patches(image[:, :seen, :seen], cfg.patch_size)
        x = nn.Dense(cfg.width, name="patch")(x)
        shape = (cfg.tokens_n, cfg.width)
        x = x + self.param("position", nn.initializers.normal(0.02), shape)
        layers = vit_stack(cfg, cfg.layers_n, ACTIVATIONS[cfg.activation], self.place)
        return nn.LayerNorm(epsilon=cfg.norm_eps, name="norm_last")(layers(x, None)[0])


def _create(cfg: BackboneConfig, place: Placement | None) -> nn.Module:
    assert isinstance(cfg.vision, SiglipConfig)
    return SiglipVision(cfg.vision, place)


SIGLIP = Part(
    config=SiglipConfig,
    create=_create,
    splits={**TRANSFORMER, **dict.fromkeys(("patch", "position", "norm_last"), Split.WHOLE)},
)


def siglip_rules(cfg: SiglipConfig, tower: str) -> list[Rule]:
    """Build the table of a Hugging Face SigLIP tower; `tower` is the pattern of its prefix."""
    layers, encoder = range(cfg.layers_n), tower + r"encoder\." + LAYER
    patch = tower + r"embeddings\.patch_embedding\."
    table = [
        Rule(patch + "weight", "vision/patch/kernel", patch_kernel),
        Rule(patch + "bias", "vision/patch/bias"),
        Rule(tower + r"embeddings\.position_embedding\.weight", "vision/position"),
        Rule(tower + r"embeddings\.position_ids", None),
        *norm_rules(tower + r"post_layernorm", "vision/norm_last"),
    ]
    blocks = {rf"self_attn\.{n}_proj": n for n in "qkv"} | {r"self_attn\.out_proj": "o"}
    for theirs, ours in (blocks | {r"mlp\.fc1": "fc1", r"mlp\.fc2": "fc2"}).items():
        table += linear_rules(encoder + theirs, f"vision/layers/{ours}", layers)
    for i in (1, 2):
        table += norm_rules(encoder + rf"layer_norm{i}", f"vision/layers/norm{i}", layers)
    return table


def read_siglip(config: Mapping[str, Any], mean: Triple, std: Triple, part: str) -> SiglipConfig:
    """Read a tower's config, in which no field but `hidden_act` and `num_channels` is absent.

    Args:
        config: of the tower.
        mean: of a picture's channels, as its processor has it.
        std: likewise.
        part: what an error calls the config.

    Raises:
        ValueError: a field that changes the result has a value that is not supported; names it.
    """
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    like = dict.fromkeys((*sizes, "image_size", "patch_size"), 1) | {"layer_norm_eps": 1e-6}
    check_numbers(config, like, part)
    activations = {one.value: one for one in Activation}
    kind = config.get("hidden_act", Activation.GELU_TANH.value)
    act = Field("hidden_act", kind, kind if kind in activations else "an activation that is known")
    refuse_differences(config, [Field("num_channels", 3, 3), act], part)
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(f"{part}hidden_size is no multiple of num_attention_heads")
    return SiglipConfig(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        width=config["hidden_size"],
        layers_n=config["num_hidden_layers"],
        heads_n=config["num_attention_heads"],
        mlp_width=config["intermediate_size"],
        norm_eps=config["layer_norm_eps"],
        activation=activations[kind],
        image_mean=mean,
        image_std=std,
    )
