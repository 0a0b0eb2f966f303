"""A family is one file and one entry: this file is one, and it is nowhere else in the package."""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from liveedit_jax.backbone_config import (
    BackboneConfig,
    BridgeConfig,
    ClipConfig,
    DecoderConfig,
    QFormerConfig,
    VisionConfig,
)
from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.backbones import Backbone, decoder, registry
from liveedit_jax.backbones.attention import Attention
from liveedit_jax.backbones.convert import Rule, linear_rules, norm_rules, transpose
from liveedit_jax.backbones.family import TRANSFORMER, Decoder, Family, Part, Split
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.linear import Linear
from liveedit_jax.backbones.tables import decoder_stacks
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.scaling.partition import backbone_shardings
from liveedit_jax.types import Batch, Role


@dataclass(frozen=True, kw_only=True)
class RowsConfig(VisionConfig):
    """A tower of one linear layer on the rows of pixels."""

    image_size: int = 6
    image_mean: tuple[float, float, float] = (0.0,) * 3
    image_std: tuple[float, float, float] = (1.0,) * 3

    @property
    def tokens_n(self) -> int:
        return self.image_size


class Rows(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(8, name="rows")(image.reshape(*image.shape[:2], -1))


@dataclass(frozen=True, kw_only=True)
class HalvesConfig(BridgeConfig):
    """A bridge of one linear layer, which keeps every second token."""

    def features_n(self, vision: VisionConfig) -> int:
        return vision.tokens_n // 2


class Halves(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width, name="out")(x[:, ::2])


@dataclass(frozen=True, kw_only=True)
class SquareConfig(DecoderConfig):
    """A decoder with a squared ReLU and neither rotary nor learned positions."""

    vocab_n: int = 40
    width: int = 16
    layers_n: int = 3
    heads_n: int = 2
    norm_eps: float = 1e-5
    tied_head: bool = True


def squared(cfg, linear, x):
    return linear("fc2", jnp.square(jax.nn.relu(linear("fc1", x))))


class SquareLayer(nn.Module):
    cfg: SquareConfig
    keep_cache: bool = False

    @nn.compact
    def __call__(self, x, cache, context, kind=None):
        width = self.cfg.width
        y = nn.LayerNorm(name="norm1")(x)
        y, cache = Attention(2, 2, width // 2, qkv_bias=True, out_bias=True, name="attention")(
            y, context.of(kind), cache
        )
        x = x + y
        y = nn.LayerNorm(name="norm2")(x)
        out = {"fc1": 24, "fc2": width}
        x = x + squared(self.cfg, lambda name, y: Linear(out[name], name=name)(y), y)
        return x, cache if self.keep_cache else None


def rules(cfg):
    table = [
        *linear_rules("eye", "vision/rows"),
        *linear_rules("nerve", "projector/out"),
        Rule("words", "embed", transpose),
        *norm_rules("last", "norm"),
    ]
    for stack, layers in decoder_stacks(cfg):
        at = r"layer(?P<layer>\d+)\."
        for name in ("attention/q", "attention/k", "attention/v", "attention/o", "fc1", "fc2"):
            table += linear_rules(at + name, f"{stack}/{name}", layers)
        for name in ("norm1", "norm2"):
            table += norm_rules(at + name, f"{stack}/{name}", layers)
    return table


FAMILY = Family(
    vision=Part(config=RowsConfig, create=lambda cfg, place: Rows(), splits={"rows": Split.WHOLE}),
    bridge=Part(
        config=HalvesConfig,
        create=lambda cfg, place: Halves(cfg.width),
        splits={"out": Split.COLUMN},
    ),
    decoder=Decoder(
        config=SquareConfig,
        layer=SquareLayer,
        norm=lambda cfg: nn.LayerNorm(epsilon=cfg.norm_eps),
        mlp=squared,
        mlp_parts=("fc1", "fc2"),
        splits=TRANSFORMER,
    ),
    rules=rules,
)
CFG = BackboneConfig(
    vision=RowsConfig(), bridge=HalvesConfig(), decoder=SquareConfig(), edit_layer=1
)
MESH = AbstractMesh((1, 2, 2, 1), ("data", "fsdp", "tensor", "expert"))


def named(weights: dict) -> dict[str, np.ndarray]:
    """The weights under the names and in the shapes of a made-up checkpoint."""
    found = {"words": weights["embed"].T}
    for name, part in (("eye", "vision/rows"), ("nerve", "projector/out")):
        outer, inner = part.split("/")
        found[f"{name}.weight"] = weights[outer][inner]["kernel"].T
        found[f"{name}.bias"] = weights[outer][inner]["bias"]
    found |= {"last.weight": weights["norm"]["scale"], "last.bias": weights["norm"]["bias"]}
    layers = jax.tree.map(
        lambda *halves: np.concatenate(halves), weights["lower"], weights["upper"]
    )
    for i in range(3):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], layers)
        for name in ("norm1", "norm2"):
            found[f"layer{i}.{name}.weight"] = own[name]["scale"]
            found[f"layer{i}.{name}.bias"] = own[name]["bias"]
        linear = {f"attention/{n}": own["attention"][n] for n in "qkvo"}
        for name, part in (linear | {"fc1": own["fc1"], "fc2": own["fc2"]}).items():
            found[f"layer{i}.{name}.weight"] = part["kernel"].T
            found[f"layer{i}.{name}.bias"] = part["bias"]
    return found


@pytest.fixture
def listed(monkeypatch):
    """The registry with one more entry."""
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, FAMILY))


@pytest.fixture
def weights(listed):
    made = Backbone(CFG).init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(made)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def test_it_converts_runs_generates_and_is_placed(weights):
    backbone = Backbone(CFG)
    converted = convert_weights(CFG, named(weights))
    jax.tree.map(np.testing.assert_array_equal, converted, weights)

    role = np.asarray([[Role.PRE, *[Role.VISION] * 3, Role.PROMPT, Role.PROMPT, 0, 0]], np.int8)
    token = np.asarray([[1, 0, 0, 0, 5, 6, 0, 0]], np.int32)
    image = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype(np.float32)
    made = np.asarray(generate(backbone, weights, Batch(token, role, image), 2))[0]
    for i, n in enumerate((6, 7)):  # without a cache, from the row so far
        batch = Batch(token.copy(), role.copy(), image)
        logits = backbone.upper(weights, backbone.lower(weights, batch), batch)
        assert int(logits[0, n - 1].argmax()) == made[i]
        token[0, n], role[0, n] = made[i], Role.ANSWER

    spec = jax.tree.map(lambda place: tuple(place.spec), backbone_shardings(MESH, CFG, weights))
    weight = ("fsdp", "expert")
    assert spec["lower"]["fc1"]["kernel"] == (None, weight, "tensor")
    assert spec["lower"]["fc2"]["kernel"] == (None, "tensor", weight)
    assert spec["projector"]["out"]["kernel"] == (weight, "tensor")
    assert spec["vision"]["rows"]["kernel"] == ()


def test_layers_and_editors_use_its_mlp(weights):
    cfg, own = CFG.decoder, jax.tree.map(lambda leaf: leaf[0], weights["upper"])
    x = jax.random.normal(jax.random.key(2), (1, 4, 16))
    context = decoder.context(cfg, jnp.arange(4)[None], jnp.tril(jnp.ones((1, 4, 4), bool)))
    silent = own | {"fc2": jax.tree.map(jnp.zeros_like, own["fc2"])}
    layer = decoder.layer(cfg)
    states = layer.apply({"params": silent}, x, None, context)[0]
    whole = layer.apply({"params": own}, x, None, context)[0]
    assert decoder.mlp_parts(cfg) == ("fc1", "fc2")
    np.testing.assert_allclose(states + decoder.mlp(cfg, own, states), whole, rtol=1e-5, atol=1e-5)


def test_weights_that_no_table_places_are_an_error(weights):
    with pytest.raises(ValueError, match="no partition table places the weights cross/gate"):
        backbone_shardings(MESH, CFG, weights | {"cross": {"gate": jnp.ones(2)}})
    unknown = weights["lower"] | {"mixer": {"kernel": jnp.ones((2, 4, 4))}}
    with pytest.raises(ValueError, match="places the weights lower/mixer/kernel"):
        backbone_shardings(MESH, CFG, weights | {"lower": unknown})


def test_unknown_parts_and_combinations_are_named():
    with pytest.raises(ValueError, match="no family in .*registry.py has a part for RowsConfig"):
        registry.find_part(RowsConfig())
    odd = replace(BACKBONES["tiny"], vision=ClipConfig(), bridge=QFormerConfig())
    with pytest.raises(ValueError, match="combines ClipConfig, QFormerConfig, LlamaConfig"):
        registry.find_family(odd)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_weight_of_a_named_backbone_is_placed(name):
    cfg = BACKBONES[name]
    shapes = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    placed = backbone_shardings(MESH, cfg, shapes)
    kernel = placed["lower"]["attention"]["q"]["kernel"]
    assert tuple(kernel.spec) == (None, ("fsdp", "expert"), "tensor")
