"""Import and export: published checkpoints to model folders, editors to the released format."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones.machine import find_lack, first_device
from liveedit_jax.backbones.minigpt4_convert import LANGUAGE
from liveedit_jax.backbones.published import CONFIG, read_files
from liveedit_jax.backbones.published_config import check_language, check_published
from liveedit_jax.backbones.registry import find_family, read_architecture
from liveedit_jax.backbones.tensors import read_tensors
from liveedit_jax.backbones.weights import convert_weights, open_folder
from liveedit_jax.config import EditorConfig
from liveedit_jax.data.files import first_line
from liveedit_jax.data.tokenizer import Tokenizer, check_ids
from liveedit_jax.editor.convert import from_released, to_released
from liveedit_jax.model_io.model import (
    conversion,
    find_model,
    has_editor,
    no_editor,
    recipe_preset,
    save_backbone,
)
from liveedit_jax.model_io.weights import load_weights, read_recipe, save_weights

WRITTEN_DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
MODULES = ("edit_extractor", "inpt_extractor", "moegen_c", "moegen_r", "instant_reps_norm")
EDITOR_PREFIX = "train_modules."  # of the editor's weights in a released checkpoint


def fetch_source(source: str) -> Path:
    """Return a local folder as it is, or fetch a Hugging Face hub id's files into the cache.

    Raises:
        FileNotFoundError: neither a folder nor a hub id that can be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise FileNotFoundError(f"no folder {source}")
    from huggingface_hub import snapshot_download

    try:
        wanted = ["*.json", "*.safetensors", "*.model", "*.bin"]
        return Path(snapshot_download(source, allow_patterns=wanted))
    except Exception as error:  # many classes: no network, no such repository, no permission
        raise FileNotFoundError(
            f"no folder {source}, and it cannot be fetched as a hub id ({first_line(error)})"
        ) from error


def read_tokenizer(cfg: BackboneConfig, folder: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder.

    Raises:
        ImportError: a package that reads it is not installed.
        ValueError: the folder has no readable tokenizer, or its ids are beyond the vocabulary.
    """
    from transformers import AutoTokenizer

    logging.getLogger("transformers").setLevel(logging.ERROR)  # what matters is in our own line
    bare = (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file()
    if bare and importlib.util.find_spec("sentencepiece") is None:
        raise ImportError(
            f"{folder} has its tokenizer as tokenizer.model alone, which is read with the package "
            "sentencepiece: pip install sentencepiece"
        )
    try:
        found = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        inner = found.backend_tokenizer
    except Exception as error:  # transformers raises many classes
        if lack := find_lack(error):
            raise OSError(f"the tokenizer in {folder} cannot be read ({lack})") from error
        raise ValueError(f"no readable tokenizer in {folder}: {first_line(error)}") from error
    tokenizer = Tokenizer(inner, cfg.pad_id, cfg.bos_id, cfg.eos_id)
    check_ids(tokenizer, cfg.decoder.vocab_n, folder)
    return tokenizer


def convert_backbone(
    cfg: BackboneConfig, name: str, source: Path, target: Path, dtype: str = "bfloat16"
) -> str:
    """Convert a published checkpoint into a model folder; return the weights' sha256.

    Args:
        cfg: the model's shapes.
        name: the preset, for the recipe.
        source: the checkpoint's folder (MiniGPT-4: the folder of its four parts).
        target: the model folder to write.
        dtype: of the written weights, "bfloat16" or "float32".

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: a package that reads its tokenizer is not installed.
        OSError: a file cannot be read, or there is no device.
        ValueError: a damaged file, a config or weights of another model, no tokenizer.
    """
    tensors, words = open_folder(cfg, source), source
    if find_family(cfg).open_folder is not None:  # its language model has a folder of its own
        words = source / LANGUAGE
        check_language(cfg, name, words)
    else:
        check_published(cfg, name, source)
    recipe = {"config": name, "converted_from": source.name}
    return _convert(cfg, recipe, tensors, words, target, dtype)


def convert_published(source: Path, target: Path, dtype: str = "bfloat16") -> str:
    """Convert a checkpoint whose own config says what it is; return the weights' sha256.

    The recipe keeps the JSON files that the architecture was read from, which is read out of them
    whenever the model is opened.

    Args:
        source, target, dtype: as in `convert_backbone`.

    Raises:
        FileNotFoundError, ImportError, OSError: as `convert_backbone`.
        ValueError: as there, or a field of the config that is not supported.
    """
    files = read_files(source)
    cfg = read_architecture(files)
    recipe = {
        "config": files[CONFIG]["model_type"],
        "published": files,
        "converted_from": source.name,
    }
    return _convert(cfg, recipe, open_folder(cfg, source), source, target, dtype)


def _convert(
    cfg: BackboneConfig,
    recipe: dict,
    tensors: Mapping[str, np.ndarray],
    words: Path,
    target: Path,
    dtype: str,
) -> str:
    """Convert a checkpoint whose config has been checked; `words` has its tokenizer."""
    tokenizer = read_tokenizer(cfg, words)
    place = jax.sharding.SingleDeviceSharding(first_device())
    weights = convert_weights(cfg, tensors, WRITTEN_DTYPES[dtype], place)
    recipe = recipe | {"dtype": dtype}
    return save_backbone(target, weights, recipe, tokenizer, WRITTEN_DTYPES[dtype])


def _read_released(file: Path) -> dict[str, np.ndarray]:
    """Read a released editor checkpoint's arrays by name, with or without EDITOR_PREFIX."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    found = read_tensors([file])
    inside = [name for name in found if name.startswith(EDITOR_PREFIX)]
    if inside:
        return {name.removeprefix(EDITOR_PREFIX): found[name] for name in inside}
    return {name: found[name] for name in found}


def import_editor(file: Path, model: str, cfg: EditorConfig | None = None) -> Path:
    """Import a released editor checkpoint into a model folder; return the editor's folder.

    Args:
        file: a checkpoint of the released code's training, or its state dict as safetensors or npz.
        model: a preset's name or a model folder, whose backbone the editor belongs to.
        cfg: the editor's sizes; None: the preset's.

    Raises:
        FileNotFoundError: no such file, or no backbone in the model folder.
        ValueError: a damaged file, or names and shapes that are not this editor's.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no editor checkpoint at {file}")
    folder = find_model(model)
    if not (folder / "backbone").is_dir():
        raise FileNotFoundError(f"no backbone in {folder}: {conversion('NAME')}")
    recipe = read_recipe(folder / "backbone")
    chosen = recipe_preset(folder / "backbone", recipe)
    cfg = cfg or chosen.editor
    weights = from_released(
        cfg, chosen.backbone.width, chosen.backbone.vision_n, _read_released(file)
    )
    made = {
        "config": recipe["config"],
        "editor": asdict(cfg),
        "backbone_sha256": recipe["sha256"],
        "imported_from": file.name,
    }
    save_weights(folder / "editor", weights, made, jnp.float32)
    return folder / "editor"


def export_editor(model: str, file: Path) -> None:
    """Export a model folder's editor as a checkpoint of the released code; needs torch.

    Raises:
        ImportError: torch is not installed.
        FileNotFoundError, ValueError: the folder has no editor, or a damaged one.
    """
    folder = find_model(model)
    if not has_editor(folder):
        raise FileNotFoundError(no_editor(folder))
    try:
        import torch
    except ImportError as error:
        raise ImportError("writing a released checkpoint needs torch: pip install torch") from error
    params, _ = load_weights(folder / "editor")
    modules: dict[str, dict] = {name: {} for name in MODULES}
    for name, array in to_released(jax.tree.map(np.asarray, params)).items():
        module, _, inner = name.partition(".")
        modules[module][inner] = torch.tensor(array)
    file.parent.mkdir(parents=True, exist_ok=True)
    empty = {"i": 0, "epoch": 0, "loss": 0.0, "ema_loss": 0.0, "opt": {}, "lr_scheduler": None}
    torch.save(empty | {"train_modules": modules}, file)
