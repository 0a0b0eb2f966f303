"""Shipped weights: one Orbax folder and one recipe a part, loaded back with their hash checked.

A model folder (for example `checkpoints/tiny`) holds

    tokenizer.json
    backbone/weights/  backbone/recipe.json
    editor/weights/    editor/recipe.json

`recipe.json` says how the weights were made (config, seed, steps, figures) and carries the sha256
of their contents, so a truncated or altered checkpoint is refused instead of used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax.backbones.tensors import first_line
from liveedit_jax.config import EditorConfig, Preset
from liveedit_jax.data.tokenizer import Tokenizer, load_tokenizer
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.presets import PRESETS, preset
from liveedit_jax.training.frozen import smol_parts

SHIPPED = Path(__file__).resolve().parents[2] / "checkpoints"


@dataclass(frozen=True, eq=False)
class Model:
    """A frozen VLLM with its trained editor; weights are float32 nested dicts."""

    config: Preset
    backbone: Any
    editor: Any
    tokenizer: Tokenizer
    backbone_sha256: str
    editor_sha256: str
    folder: Path


def sha256_of(params) -> str:
    """The sha256 over every leaf's path, shape, dtype and bytes, in path order."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_weights(folder: str | Path, params, recipe: dict, dtype=jnp.float16) -> str:
    """Write `params`, rounded to `dtype`, and its recipe; returns the sha256 written there.

    The previous weights of `folder` are replaced only once the new ones are complete.

    Raises:
        ValueError: a leaf is not finite after rounding.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).resolve()
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)  # no copy of such a leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(rounded):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} is not finite in {jnp.dtype(dtype).name}"
            )
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(fresh / "weights", rounded)
    (fresh / "weights" / "commit_success.txt").write_text("complete\n")  # it names our folders
    digest = sha256_of(rounded)
    (fresh / "recipe.json").write_text(json.dumps({**recipe, "sha256": digest}, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return digest


def load_weights(folder: str | Path) -> tuple[Any, dict]:
    """Weights and the recipe of one part; float16 is a form of storage, and comes back as float32.

    Raises:
        FileNotFoundError: there is no checkpoint in `folder`.
        ValueError: it is truncated, corrupt, or not what its recipe says.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder).resolve()
    recipe_file = folder / "recipe.json"
    if not recipe_file.is_file():
        raise FileNotFoundError(f"no checkpoint at {folder}: recipe.json is missing")
    try:
        recipe = json.loads(recipe_file.read_text())
        logging.getLogger("absl").setLevel(logging.ERROR)
        with ocp.StandardCheckpointer() as checkpointer:
            # where they were when they were saved is no matter: a pod's weights open on a laptop
            saved = checkpointer.metadata(folder / "weights").item_metadata.tree
            stored = checkpointer.restore(folder / "weights", jax.tree.map(_here, saved))
        digest = sha256_of(stored)
    except Exception as error:  # Orbax raises a different class for every way a folder can be torn
        raise ValueError(
            f"checkpoint {folder} is truncated or corrupt ({first_line(error)}); "
            "restore it from version control"
        ) from error
    if digest != recipe.get("sha256"):
        raise ValueError(
            f"checkpoint {folder} does not match the sha256 of its recipe.json; "
            "restore both together"
        )
    return jax.tree.map(_as_computed, stored), recipe


def _here(leaf) -> jax.ShapeDtypeStruct:
    """A stored array's shape and dtype, on this process's first device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _as_computed(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.float16 else jnp.asarray(leaf)


def load_backbone(folder: Path) -> tuple[Any, dict]:
    """A backbone's weights and recipe; of some only the bridge is in the folder.

    Raises:
        FileNotFoundError, ImportError: no checkpoint, or its frozen parts are not installed.
        ValueError: a part is damaged, or the bridge was trained between other parts.
    """
    weights, recipe = load_weights(folder / "backbone")
    if "frozen_sha256" not in recipe:
        return weights, recipe
    frozen, sha256 = smol_parts(preset(recipe["config"]).backbone)
    if sha256 != recipe["frozen_sha256"]:
        raise ValueError(f"the bridge in {folder} was trained between other frozen parts")
    return frozen | weights, recipe


def model_folder(name_or_folder: str | Path) -> Path:
    """The folder of a shipped model by preset name, or any other folder as it is."""
    return SHIPPED / str(name_or_folder) if str(name_or_folder) in PRESETS else Path(name_or_folder)


def load_model(name_or_folder: str | Path = "tiny", config: Preset | None = None) -> Model:
    """A VLLM with its editor, from a preset's shipped folder or from a folder of the same layout.

    Args:
        name_or_folder: a preset's name or a model folder.
        config: None: the preset that the recipe names, with the editor that was trained.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: a part is corrupt, the editor was trained for another backbone, or `config` has
            another editor than the weights.
    """
    folder = model_folder(name_or_folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no model {str(name_or_folder)!r}: "
            f"not a preset ({', '.join(PRESETS)}) and not a folder"
        )
    backbone, backbone_recipe = load_backbone(folder)
    editor, editor_recipe = load_weights(folder / "editor")
    if editor_recipe["backbone_sha256"] != backbone_recipe["sha256"]:
        raise ValueError(f"the editor in {folder} was trained for another backbone; retrain it")
    if config is None:
        config = preset(backbone_recipe["config"])
        config = replace(config, editor=_trained_editor(folder, editor_recipe))
    _check_editor(folder, config, editor)
    cfg = config.backbone
    return Model(
        config=config,
        backbone=backbone,
        editor=editor,
        tokenizer=load_tokenizer(folder / "tokenizer.json", cfg.pad_id, cfg.bos_id, cfg.eos_id),
        backbone_sha256=backbone_recipe["sha256"],
        editor_sha256=editor_recipe["sha256"],
        folder=folder,
    )


def _trained_editor(folder: Path, recipe: dict) -> EditorConfig:
    try:
        return EditorConfig(**recipe["editor"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the recipe of the editor in {folder} does not fit this version ({error}); retrain it"
        ) from error


def _check_editor(folder: Path, config: Preset, editor: dict) -> None:
    """Refuse weights of other shapes than the config's."""
    width, vision_n = config.backbone.width, config.backbone.vision_n
    wanted = jax.eval_shape(lambda: init_params(jax.random.key(0), config.editor, width, vision_n))

    def shapes(tree) -> dict:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

    ours, theirs = shapes(wanted), shapes(editor)
    wrong = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    if wrong:
        raise ValueError(
            f"the editor in {folder} has other shapes than the config: {wrong[0]} is "
            f"{theirs.get(wrong[0])}, not {ours.get(wrong[0])} ({len(wrong)} such leaves)"
        )
