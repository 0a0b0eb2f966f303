"""Weights on disk: an Orbax folder, and a recipe with the sha256 of its contents.

`recipe.json` records how the weights were made (config, seed, steps, figures). A truncated or
altered checkpoint raises instead of being used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from liveedit_jax.backbones.tensors import first_line


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

    Previous weights in `folder` are replaced only once the new ones are complete.

    Raises:
        ValueError: a leaf is not finite after rounding.
    """
    import orbax.checkpoint as ocp

    folder, rounded = Path(folder).resolve(), round_weights(params, dtype)
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(fresh / "weights", rounded)
    (fresh / "weights" / "commit_success.txt").write_text("complete\n")  # without local paths
    digest = sha256_of(rounded)
    (fresh / "recipe.json").write_text(json.dumps({**recipe, "sha256": digest}, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return digest


def load_weights(folder: str | Path) -> tuple[Any, dict]:
    """Load weights and their recipe; weights stored as float16 are returned as float32.

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
            # the sharding they were saved with is ignored: a pod's weights open on a laptop
            saved = checkpointer.metadata(folder / "weights").item_metadata.tree
            stored = checkpointer.restore(folder / "weights", jax.tree.map(_on_first_device, saved))
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
    return jax.tree.map(_widen_float16, stored), recipe


def _on_first_device(leaf) -> jax.ShapeDtypeStruct:
    """Describe a stored array, to be restored on this process's first device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _widen_float16(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.float16 else jnp.asarray(leaf)
