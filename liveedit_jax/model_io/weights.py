"""Weights on disk: an Orbax folder, and a recipe with the sha256 of its contents.

    recipe.json    weights/    (weights.2/ once they were saved over; recipe.json says which)

`recipe.json` records how the weights were made (config, seed, steps, figures). A truncated or
altered checkpoint raises instead of being used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax.backbones.machine import find_lack, first_device
from liveedit_jax.data.files import first_line
from liveedit_jax.data.json_files import parse_json
from liveedit_jax.store.durable import replace_file, sync_folder

SLOTS = ("weights", "weights.2")  # folders of arrays: one is in use, the next save takes the other


def sha256_of(params) -> str:
    """Hash every leaf's path, shape, dtype and bytes, in path order, to one sha256."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def round_weights(params, dtype=jnp.float16):
    """Return `params` as `save_weights` stores them.

    Raises:
        ValueError: a leaf is not finite after rounding.
    """
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)  # no copy of such a leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(rounded):
        if not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} is not finite in {jnp.dtype(dtype).name}"
            )
    return rounded


def save_weights(folder: str | Path, params, recipe: dict, dtype=jnp.float16) -> str:
    """Write `params`, rounded to `dtype`, with their recipe; return the sha256 that it records.

    At every moment `folder` holds the previous weights or the new ones: those that `recipe.json`
    names, which is replaced in one step. New ones are written into the other of two folders.

    Raises:
        OSError: the disk is full, or `folder` cannot be written to.
        ValueError: a leaf is not finite after rounding.
    """
    folder, rounded = Path(folder).resolve(), round_weights(params, dtype)
    before = _slot_in_use(folder)
    into = folder if before else folder.with_name(folder.name + ".new")
    slot = next(name for name in SLOTS if name != before)
    shutil.rmtree(into / slot if before else into, ignore_errors=True)
    into.mkdir(parents=True, exist_ok=True)
    digest = sha256_of(rounded)
    _write_arrays(into / slot, rounded)
    content = {**recipe, "sha256": digest} | ({"weights": slot} if slot != SLOTS[0] else {})
    # what is no number is written as null: a reader refuses NaN
    content = json.loads(json.dumps(content), parse_constant=lambda _: None)
    replace_file(into / "recipe.json", (json.dumps(content, indent=1) + "\n").encode())
    if before:
        shutil.rmtree(folder / before, ignore_errors=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # a rest without weights
        into.rename(folder)
        sync_folder(folder.parent)
    return digest


def _slot_in_use(folder: Path) -> str | None:
    """Return the folder of the weights that are there; None where there are none."""
    try:
        slot = read_recipe(folder).get("weights", SLOTS[0])
    except (ValueError, FileNotFoundError):
        return None
    return slot if (folder / slot).is_dir() else None


def _write_arrays(folder: Path, tree) -> None:
    """Write arrays as an Orbax folder, durably."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
    (folder / "commit_success.txt").write_text("complete\n")  # without local paths
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        else:
            sync_folder(file)
    sync_folder(folder)


def read_recipe(folder: str | Path) -> dict:
    """Read the recipe of weights.

    Raises:
        FileNotFoundError: there are none in `folder`.
        OSError: it cannot be read.
        ValueError: it is damaged, or names something else than weights beside it.
    """
    file = Path(folder) / "recipe.json"
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no checkpoint at {folder}: recipe.json is missing") from None
    try:
        recipe = parse_json(text, "recipe.json")
    except ValueError as error:
        raise ValueError(_damaged(folder, str(error))) from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("sha256"), str):
        raise ValueError(_damaged(folder, "recipe.json has no sha256"))
    if recipe.get("weights", SLOTS[0]) not in SLOTS:
        raise ValueError(_damaged(folder, f"recipe.json says weights is none of {SLOTS}"))
    return recipe


def _damaged(folder: str | Path, reason: str) -> str:
    return (
        f"checkpoint {folder} is truncated or corrupt ({reason}); restore it from version control"
    )


def load_weights(folder: str | Path) -> tuple[Any, dict]:
    """Load weights and their recipe; weights stored as float16 are returned as float32.

    Raises:
        FileNotFoundError: there is no checkpoint in `folder`.
        OSError: the machine cannot read it: no permission, memory or device.
        ValueError: it is truncated, corrupt, or not what its recipe says.
    """
    folder = Path(folder).resolve()
    while True:
        recipe = read_recipe(folder)
        try:
            return _read_arrays(folder, recipe), recipe
        except ValueError:
            if read_recipe(folder) == recipe:  # else they were replaced while they were read
                raise


def _read_arrays(folder: Path, recipe: dict) -> Any:
    """Read the weights that a recipe names; errors as `load_weights`."""
    import orbax.checkpoint as ocp

    first_device()
    where = folder / recipe.get("weights", SLOTS[0])
    try:
        logging.getLogger("absl").setLevel(logging.ERROR)
        with ocp.StandardCheckpointer() as checkpointer:
            # the sharding they were saved with is ignored: a pod's weights open on a laptop
            saved = checkpointer.metadata(where).item_metadata.tree
            stored = checkpointer.restore(where, jax.tree.map(_on_first_device, saved))
        digest = sha256_of(stored)
    except Exception as error:  # Orbax raises a different class for every way a folder can be torn
        if lack := find_lack(error):
            raise OSError(f"checkpoint {folder} cannot be read ({lack})") from error
        raise ValueError(_damaged(folder, first_line(error))) from error
    if digest != recipe["sha256"]:
        raise ValueError(
            f"checkpoint {folder} does not match the sha256 of its recipe.json; "
            "restore both together"
        )
    return jax.tree.map(_widen_float16, stored)


def _on_first_device(leaf) -> jax.ShapeDtypeStruct:
    """Describe a stored array, to be restored on this process's first device."""
    place = jax.sharding.SingleDeviceSharding(first_device())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _widen_float16(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.float16 else jnp.asarray(leaf)
