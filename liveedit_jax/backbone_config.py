"""Frozen configurations of the backbones: a vision tower, a bridge, a decoder, and their seams.

A field says what a checkpoint is, never which code to run by name: code dispatches on the classes
of the three parts. The named ones are in `backbone_presets`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Triple = tuple[float, float, float]


class Fit(Enum):
    """How a picture of any shape becomes a square of the tower's size."""

    PAD = "pad"  # onto a white square, then resized
    SQUASH = "squash"  # resized to the square, whatever its proportions
    CROP = "crop"  # the shorter edge resized to the side, then the centre cut out
    TILES = "tiles"  # squashed whole, and cut into tiles at a higher resolution (LLaVA-NeXT)


class Keep(Enum):
    """What is kept of a decoder layer's forward pass for its backward pass."""

    ALL = "all"
    PRODUCTS = "products"  # outputs of its linear layers; attention is computed again
    INPUTS = "inputs"  # its input; everything is computed again


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """A CLIP vision tower; `layers_n` is the checkpoint's, `feature_layer` picks a hidden state."""

    image_size: int = 336
    patch_size: int = 14
    width: int = 1024
    layers_n: int = 24
    heads_n: int = 16
    mlp_width: int = 4096
    norm_eps: float = 1e-5
    feature_layer: int = -2  # LLaVA-1.5: the second-to-last hidden state, CLS dropped
    image_mean: Triple = CLIP_MEAN
    image_std: Triple = CLIP_STD

    @property
    def tokens_n(self) -> int:
        """Feature rows of one image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class EvaConfig:
    """EVA's ViT-g as BLIP-2 and MiniGPT-4 use it: exact GELU, all layers, CLS kept, a last norm."""

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
        """Feature rows of one image: its patches and CLS."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class Stage:
    """`blocks_n` inverted bottlenecks of an EfficientNet; the first one has the stride.

    Positional, unlike the other configs: stages are written as the rows of a table.
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
class EfficientNetConfig:
    """EfficientNet-lite: ReLU6, no squeeze-and-excitation, TensorFlow's SAME padding.

    The last map (7x7 at 224 pixels) is averaged to `side` x `side` overlapping windows, one token
    each; `side` of the map itself averages nothing.
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
        """Feature rows of one image."""
        return self.side**2


VisionConfig = ClipConfig | EvaConfig | EfficientNetConfig


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """LLaVA's bridge: every vision token through two linear layers with an exact GELU."""


@dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """BLIP-2's bridge: learned queries read the image, then one linear layer."""

    queries_n: int = 32
    width: int = 768
    layers_n: int = 12
    heads_n: int = 12
    mlp_width: int = 3072
    cross_every: int = 2  # layers 0, 2, 4, ... attend to the image
    norm_eps: float = 1e-12


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """A Llama decoder: RMSNorm, RoPE, SwiGLU, grouped-query attention."""

    vocab_n: int = 32064
    width: int = 4096  # D
    layers_n: int = 32
    heads_n: int = 32
    kv_heads_n: int = 32
    head_width: int = 128
    mlp_width: int = 11008
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    tied_head: bool = False


@dataclass(frozen=True, kw_only=True)
class OptConfig:
    """An OPT decoder: LayerNorm before each part, learned positions, ReLU, biases everywhere."""

    vocab_n: int = 50304
    width: int = 2560  # D
    layers_n: int = 32
    heads_n: int = 32
    mlp_width: int = 10240
    positions_n: int = 2048
    norm_eps: float = 1e-5
    tied_head: bool = True

    @property
    def kv_heads_n(self) -> int:
        """Every head has its own keys."""
        return self.heads_n

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.width // self.heads_n


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The words around image and prompt that a model was tuned with."""

    before: str = ""  # before the image; PRE
    between: str = ""  # between image and prompt, instead of the backbone's `after_image`
    after: str = ""  # after the prompt
    bos: bool = True  # the row begins with BOS


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A VLLM split after decoder layer `edit_layer`."""

    vision: VisionConfig = field(default_factory=ClipConfig)
    decoder: LlamaConfig | OptConfig = field(default_factory=LlamaConfig)
    bridge: ProjectorConfig | QFormerConfig = field(default_factory=ProjectorConfig)
    edit_layer: int = 21  # 0-based; `lower` ends with this layer's OUTPUT
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = 0
    # Layout of a row. PRE tokens stand before the image; without them (BLIP-2) the image is first
    # and BOS belongs to the prompt. `after_image` joins image and prompt, and is prompt.
    image_first: bool = False
    after_image: str = "\n"
    chat: ChatTemplate | None = None
    fit: Fit = Fit.PAD
    keep: Keep = Keep.ALL  # of every layer, for gradients; the rest is computed again
    # LLaVA-NeXT: the grids of tiles that a picture may be cut into, (rows, columns).
    grids: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        """Refuse a split behind no layer, and tiles without grids."""
        if not 0 <= self.edit_layer < self.decoder.layers_n:
            raise ValueError(f"edit_layer={self.edit_layer}: from 0 to {self.decoder.layers_n - 1}")
        if (self.fit is Fit.TILES) != bool(self.grids):
            raise ValueError("grids belong to fit=Fit.TILES, and only to it")

    @property
    def vision_n(self) -> int:
        """P, the nominal number of vision tokens (the sentinel has as many rows)."""
        if isinstance(self.bridge, QFormerConfig):
            return self.bridge.queries_n
        return self.vision.tokens_n

    @property
    def width(self) -> int:
        """D, the decoder's width."""
        return self.decoder.width

    @property
    def tiles_n(self) -> int:
        """N, tiles of a batch row: the whole picture and the largest grid."""
        return 1 + max((rows * columns for rows, columns in self.grids), default=0)

    @property
    def drawing_size(self) -> int:
        """Pixels a side of a square picture that is seen in full: its largest square grid's."""
        return self.vision.image_size * max((min(grid) for grid in self.grids), default=1)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """A picture's shape: (S, S, 3), in tiles (N, S, S, 3)."""
        side = self.vision.image_size
        return (*((self.tiles_n,) if self.grids else ()), side, side, 3)
