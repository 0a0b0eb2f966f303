"""Frozen configurations of backbones: a vision tower, a bridge, a decoder, and how they are joined.

Fields describe a checkpoint. They never name code: `backbones.registry` knows what belongs to the
class of each part. A new family defines subclasses of `VisionConfig`, `BridgeConfig` and
`DecoderConfig` in its own file. `backbone_presets` has the named backbones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Triple = tuple[float, float, float]


PartConfig = TypeVar("PartConfig")


def as_kind(part: object, kind: type[PartConfig]) -> PartConfig:
    """Return a part of a config, as the class that a family's code is written for.

    Raises:
        TypeError: it is of another class.
    """
    if not isinstance(part, kind):
        raise TypeError(f"{type(part).__name__} is given where {kind.__name__} is needed")
    return part


class ResizeMode(Enum):
    """The way a picture of any shape becomes a square of the tower's size."""

    PAD = "pad"  # pad to a white square, then resize
    SQUASH = "squash"  # resize to the square, ignoring proportions
    CROP = "crop"  # resize the shorter edge to the square's side, then crop the centre


class RematPolicy(Enum):
    """The activations of a decoder layer that are saved for its backward pass."""

    ALL = "all"
    PRODUCTS = "products"  # outputs of the linear layers; attention is recomputed
    INPUTS = "inputs"  # the layer's input; everything is recomputed


@dataclass(frozen=True, kw_only=True)
class VisionConfig(ABC):
    """Hold what the configs of all vision towers have in common."""

    image_size: int
    image_mean: Triple
    image_std: Triple

    @property
    @abstractmethod
    def tokens_n(self) -> int:
        """Return the number of the tower's features per image."""


@dataclass(frozen=True, kw_only=True)
class VitConfig(VisionConfig):
    """Hold what the configs of all vision transformers have in common."""

    patch_size: int
    width: int
    layers_n: int  # of the checkpoint, used or not
    heads_n: int
    mlp_width: int
    norm_eps: float


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """Hold what the configs of all bridges have in common."""

    def features_n(self, vision: VisionConfig) -> int:
        """Return the number of the bridge's features per image."""
        return vision.tokens_n


@dataclass(frozen=True, kw_only=True)
class TilesConfig(ABC):
    """Hold what the configs of all ways to cut a picture into tiles have in common."""

    @property
    @abstractmethod
    def tiles_n(self) -> int:
        """Return N, the most tiles that a picture becomes."""

    @abstractmethod
    def drawing_size(self, side: int) -> int:
        """Return the side of the largest square picture that tiles of `side` show in full."""

    @property
    def newline(self) -> bool:
        """Return whether one more, learned feature follows those of the tiles."""
        return False


@dataclass(frozen=True, kw_only=True)
class AnyresConfig(TilesConfig):
    """LLaVA-NeXT's tiles: the whole picture, squashed, and those of a larger version of it.

    The larger version fills one of `grids` of (rows, columns). Its features form one map, each
    line of which ends with a learned newline.
    """

    grids: tuple[tuple[int, int], ...]

    @property
    def tiles_n(self) -> int:
        """Return N: the whole picture and the tiles of the largest grid."""
        return 1 + max(rows * columns for rows, columns in self.grids)

    def drawing_size(self, side: int) -> int:
        """Return the side of the largest square that fits into a grid."""
        return side * max(min(grid) for grid in self.grids)

    @property
    def newline(self) -> bool:
        """Return that there is a newline."""
        return True


class Activation(Enum):
    """The nonlinearity of an MLP, under the name that Hugging Face's configs have for it."""

    RELU = "relu"
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_pytorch_tanh"
    QUICK_GELU = "quick_gelu"


class Reach(Enum):
    """The tokens that a token attends to, besides itself and those before it."""

    CAUSAL = "causal"  # none
    PREFIX = "prefix"  # tokens before the answer attend to each other in both directions
    IMAGE = "image"  # an image's tokens attend to each other in both directions


def in_sections(sizes: tuple[int, int, int]) -> tuple[int, ...]:
    """Give the first frequencies to time, the next to height, the last to width (Qwen2.5-VL).

    Examples:
        >>> in_sections((2, 1, 1))
        (0, 0, 1, 2)
    """
    return tuple(axis for axis, n in enumerate(sizes) for _ in range(n))


def interleaved(sizes: tuple[int, int, int]) -> tuple[int, ...]:
    """Give frequencies to time, height and width in turn, as long as there are any (Qwen3-VL).

    Examples:
        >>> interleaved((3, 1, 1))
        (0, 1, 2, 0, 0)
    """
    turns = (i % 3 for i in range(sum(sizes)))
    return tuple(axis if i < 3 * sizes[axis] else 0 for i, axis in enumerate(turns))


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """Describe the attention of those layers of a decoder that are of one kind."""

    rope_base: float | None  # of rotary positions; None: there are none
    rope_factor: float = 1.0  # positions are divided by it
    window: int | None = None  # a token attends to so many tokens, its own included; None: to all


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Hold what the configs of all decoders have in common.

    Their attention has `heads_n` query heads and `kv_heads_n` key heads of width `head_width`.
    """

    vocab_n: int
    width: int  # D
    layers_n: int
    heads_n: int
    norm_eps: float
    tied_head: bool  # the head is the transposed embedding
    embed_scale: float = 1.0  # multiplies the embeddings of tokens, not the features of images
    logit_cap: float | None = None  # logits become cap * tanh(logits / cap)
    rope_base: float | None = None  # of rotary positions; None: there are none
    # The axis (0 time, 1 height, 2 width) whose position turns each of a head's frequencies; empty:
    # positions have one axis. `in_sections` and `interleaved` make it.
    rope_axes: tuple[int, ...] = ()
    positions_n: int = 0  # learned positions; 0: there are none
    position_offset: int = 0  # rows at the beginning of their table that no token uses
    reach: Reach = Reach.CAUSAL
    # Where layers differ: their kinds, and the index of each layer's kind. Empty: they are alike.
    kinds: tuple[LayerKind, ...] = ()
    layer_kinds: tuple[int, ...] = ()
    # Gated cross-attention in front of layers 0, n, 2n, ...; 0: there is none. It alone reads the
    # VISION rows, which no layer changes.
    cross_every: int = 0

    def __post_init__(self):
        """Refuse kinds that do not say what each layer is."""
        n, kinds_n = self.layers_n if self.kinds else 0, len(self.kinds)
        if len(self.layer_kinds) != n or not all(0 <= kind < kinds_n for kind in self.layer_kinds):
            raise ValueError(
                f"layer_kinds={self.layer_kinds}: {n} indices of {kinds_n} kinds, one a layer"
            )

    @property
    def kv_heads_n(self) -> int:
        """Return the number of key heads: every query head has its own, or a subclass's field."""
        return self.heads_n

    @property
    def head_width(self) -> int:
        """Return the width of one head: an equal share, or a subclass's field."""
        return self.width // self.heads_n

    @property
    def cross_n(self) -> int:
        """Return the number of layers that have cross-attention in front of them."""
        return -(-self.layers_n // self.cross_every) if self.cross_every else 0


@dataclass(frozen=True, kw_only=True)
class ClipConfig(VitConfig):
    """A CLIP vision tower whose hidden state `feature_layer` is used."""

    image_size: int = 336
    patch_size: int = 14
    width: int = 1024
    layers_n: int = 24
    heads_n: int = 16
    mlp_width: int = 4096
    norm_eps: float = 1e-5
    feature_layer: int = -2  # LLaVA-1.5: the second-to-last hidden state, without CLS
    keep_cls: bool = False
    activation: Activation = Activation.QUICK_GELU
    image_mean: Triple = CLIP_MEAN
    image_std: Triple = CLIP_STD

    @property
    def tokens_n(self) -> int:
        """Return the number of features per image: one per patch and, if it is kept, CLS."""
        return (self.image_size // self.patch_size) ** 2 + self.keep_cls


@dataclass(frozen=True, kw_only=True)
class EvaConfig(VitConfig):
    """EVA's ViT-g as in BLIP-2 and MiniGPT-4: exact GELU, all layers, a final norm, CLS kept."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1408
    layers_n: int = 39
    heads_n: int = 16
    mlp_width: int = 6144
    norm_eps: float = 1e-6
    last_norm_eps: float = 1e-6
    image_mean: Triple = CLIP_MEAN
    image_std: Triple = CLIP_STD

    @property
    def tokens_n(self) -> int:
        """Return the number of features per image: one per patch, and CLS."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class Stage:
    """A stage of an EfficientNet: `blocks_n` inverted bottlenecks, the first with the stride.

    It also takes positional arguments, so that stages can be written as the rows of a table.
    """

    blocks_n: int
    kernel_size: int
    stride: int
    expand_ratio: int
    width: int


LITE0_STAGES = (  # blocks, kernel size, stride, expansion, width
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(VisionConfig):
    """EfficientNet-lite: ReLU6, no squeeze-and-excitation, TensorFlow's SAME padding.

    The last feature map (7 x 7 at 224 pixels) is average-pooled over `side` x `side` overlapping
    windows, each of which becomes a token. With the map's own side, nothing is averaged.
    """

    image_size: int = 224
    stem_width: int = 32
    stages: tuple[Stage, ...] = LITE0_STAGES
    width: int = 1280
    norm_eps: float = 1e-3
    side: int = 7
    image_mean: Triple = (127 / 255,) * 3
    image_std: Triple = (128 / 255,) * 3

    @property
    def tokens_n(self) -> int:
        """Return the number of features per image, one per window."""
        return self.side**2


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(BridgeConfig):
    """LLaVA's bridge: two linear layers with an exact GELU, applied to every vision token."""


@dataclass(frozen=True, kw_only=True)
class QFormerConfig(BridgeConfig):
    """BLIP-2's bridge: a Q-Former whose learned queries read the image, then a linear layer."""

    queries_n: int = 32
    width: int = 768
    layers_n: int = 12
    heads_n: int = 12
    mlp_width: int = 3072
    cross_every: int = 2  # layers 0, 2, 4, ... attend to the image
    norm_eps: float = 1e-12

    def features_n(self, vision: VisionConfig) -> int:
        """Return the number of queries, whatever the tower gives."""
        return self.queries_n


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """A decoder of Llama's kind: RMSNorm, RoPE, a gated MLP, grouped-query attention."""

    vocab_n: int = 32064
    width: int = 4096  # D
    layers_n: int = 32
    heads_n: int = 32
    kv_heads_n: int = 32
    head_width: int = 128
    mlp_width: int = 11008
    norm_eps: float = 1e-5
    rope_base: float | None = 10000.0
    tied_head: bool = False
    activation: Activation = Activation.SILU  # of the gate
    qkv_bias: bool = False  # biases of queries, keys and values
    out_bias: bool = False  # a bias of the attention's output
    qk_norm: bool = False  # an RMSNorm of every head's queries and keys
    attention_scale: float | None = None  # of scores; None: 1 / sqrt(head_width)
    attention_cap: float | None = None  # scores become cap * tanh(scores / cap)
    norms_after: bool = False  # norms of what attention and MLP add, beside those in front of them


@dataclass(frozen=True, kw_only=True)
class OptConfig(DecoderConfig):
    """An OPT decoder: LayerNorm before each part, learned positions, ReLU, biases everywhere."""

    vocab_n: int = 50304
    width: int = 2560  # D
    layers_n: int = 32
    heads_n: int = 32
    mlp_width: int = 10240
    positions_n: int = 2048
    position_offset: int = 2
    norm_eps: float = 1e-5
    tied_head: bool = True


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A model's chat template around one image and one prompt."""

    before: str = ""  # in front of the image; its tokens have the role PRE
    between: str = ""  # between image and prompt; replaces `BackboneConfig.after_image`
    without_image: str = ""  # in front of a prompt that has no image
    after: str = ""  # after the prompt
    bos: bool = True  # begin the row with BOS


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A vision-language model that is split after decoder layer `edit_layer`."""

    vision: VisionConfig = field(default_factory=ClipConfig)
    decoder: DecoderConfig = field(default_factory=LlamaConfig)
    bridge: BridgeConfig = field(default_factory=ProjectorConfig)
    edit_layer: int = 21  # counted from 0; editors act on the OUTPUT of this layer
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = 0
    image_first: bool = False  # BLIP-2: no PRE tokens; BOS comes after the image, in the prompt
    bos: bool = True  # a plain row begins with BOS
    after_image: str = "\n"  # text between image and prompt, part of the prompt
    chat: ChatTemplate | None = None
    fit: ResizeMode = ResizeMode.PAD  # of a picture that becomes one square
    over_white: bool = False  # transparent parts of a picture become white, however it is fitted
    tiles: TilesConfig | None = None  # of a picture that becomes several
    keep: RematPolicy = RematPolicy.ALL  # rematerialisation of decoder layers in gradients

    def __post_init__(self):
        """Refuse an edit layer that does not exist."""
        if not 0 <= self.edit_layer < self.decoder.layers_n:
            raise ValueError(f"edit_layer={self.edit_layer}: from 0 to {self.decoder.layers_n - 1}")

    @property
    def vision_n(self) -> int:
        """Return P, the number of a tile's vision tokens, which is also that of the sentinel."""
        return self.bridge.features_n(self.vision)

    @property
    def width(self) -> int:
        """Return D, the width of the decoder."""
        return self.decoder.width

    @property
    def plain_pre(self) -> list[int]:
        """Return the ids that begin a row without a chat template."""
        return [self.bos_id] if self.bos else []

    @property
    def drawing_size(self) -> int:
        """Return the side in pixels of the largest square picture that is shown in full."""
        side = self.vision.image_size
        return side if self.tiles is None else self.tiles.drawing_size(side)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return the shape of a picture: (S, S, 3), or (N, S, S, 3) in tiles."""
        side = self.vision.image_size
        return (*(() if self.tiles is None else (self.tiles.tiles_n,)), side, side, 3)
