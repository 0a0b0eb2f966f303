"""The frozen parts of models of which only a bridge is shipped: read once, then kept in a cache."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import smol_convert
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.cache import cache_folder
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.model_io.weights import load_weights, save_weights


def smol_tokenizer(cfg: BackboneConfig) -> Tokenizer:
    """SmolLM2's tokenizer; a user's text never becomes a special token.

    Raises:
        FileNotFoundError, ImportError: its packages are not installed.
    """
    inner = smol_convert.gguf_tokenizer(smol_convert.open_gguf(smol_convert.smollm2_file()))
    inner.encode_special_tokens = True
    return Tokenizer(inner, cfg.pad_id, cfg.bos_id, cfg.eos_id)


def smol_parts(cfg: BackboneConfig) -> tuple[dict, str]:
    """Tower and language model of `smol`, float32, and their sha256.

    The first call reads the packages that carry them and keeps what it found in the cache.

    Raises:
        FileNotFoundError, ImportError: the packages are not installed and nothing is cached.
        ValueError: the cache is damaged (remove the folder that is named).
    """
    folder, stored = cache_folder() / "smol", replace(cfg, edit_layer=0)
    if not (folder / "recipe.json").is_file():
        reader = smol_convert.open_gguf(smol_convert.smollm2_file())
        parts = smol_convert.read_tower(stored) | smol_convert.read_language(stored, reader)
        keep_parts(parts, folder)
    parts, recipe = load_weights(folder)
    return split_at(parts, cfg.edit_layer), recipe["sha256"]


def keep_parts(parts: dict, folder: Path) -> None:
    """Save parts as `folder`, also where other processes do the same at this moment."""
    own = folder.with_name(f"{folder.name}.{os.getpid()}")
    save_weights(own, parts, {"config": folder.name}, jnp.float32)
    if not (folder / "recipe.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # torn
    try:
        own.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(own)
