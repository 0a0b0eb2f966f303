"""Frozen parts of models that ship only their bridge: read from packages once, then cached."""

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


def load_smol_tokenizer(cfg: BackboneConfig) -> Tokenizer:
    """Load SmolLM2's tokenizer; a user's text never becomes a special token.

    Raises:
        FileNotFoundError, ImportError: its packages are not installed.
    """
    inner = smol_convert.gguf_tokenizer(smol_convert.open_gguf(smol_convert.smollm2_file()))
    inner.encode_special_tokens = True
    return Tokenizer(inner, cfg.pad_id, cfg.bos_id, cfg.eos_id)


def load_smol_parts(cfg: BackboneConfig) -> tuple[dict, str]:
    """Load `smol`'s vision tower and language model (float32), and their sha256.

    The first call reads them from the packages that contain them and caches them.

    Raises:
        FileNotFoundError, ImportError: the packages are not installed and nothing is cached.
        ValueError: the cache is damaged (remove the folder that the error names).
    """
    folder, stored = cache_folder() / "smol", replace(cfg, edit_layer=0)
    if not (folder / "recipe.json").is_file():
        reader = smol_convert.open_gguf(smol_convert.smollm2_file())
        parts = smol_convert.read_tower(stored) | smol_convert.read_language(stored, reader)
        cache_parts(parts, folder)
    parts, recipe = load_weights(folder)
    return split_at(parts, cfg.edit_layer), recipe["sha256"]


def cache_parts(parts: dict, folder: Path) -> None:
    """Save parts as `folder`, even while other processes do the same."""
    own = folder.with_name(f"{folder.name}.{os.getpid()}")
    save_weights(own, parts, {"config": folder.name}, jnp.float32)
    if not (folder / "recipe.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # torn
    try:
        own.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(own)
