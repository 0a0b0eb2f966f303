"""Model folders: a backbone with its tokenizer and its editor.

A model folder (for example `checkpoints/tiny`) holds

    tokenizer.json
    backbone/weights/  backbone/recipe.json
    editor/weights/    editor/recipe.json
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.config import EditorConfig, Preset
from liveedit_jax.data.tokenizer import Tokenizer, load_tokenizer
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.model_io.frozen import load_smol_parts
from liveedit_jax.model_io.weights import load_weights
from liveedit_jax.presets import PRESETS, preset

PACKAGE = Path(__file__).resolve().parents[1]
IN_WHEELS, IN_CHECKOUTS = PACKAGE / "_checkpoints", PACKAGE.parent / "checkpoints"
SHIPPED = IN_WHEELS if IN_WHEELS.is_dir() else IN_CHECKOUTS


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


def load_backbone(folder: Path) -> tuple[Any, dict]:
    """Load a backbone's weights and recipe; a folder with a bridge alone gets its frozen parts.

    Raises:
        FileNotFoundError, ImportError: no checkpoint, or its frozen parts are not installed.
        ValueError: a part is damaged, or the bridge was trained between other parts.
    """
    weights, recipe = load_weights(folder / "backbone")
    if "frozen_sha256" not in recipe:
        return weights, recipe
    frozen, sha256 = load_smol_parts(preset(recipe["config"]).backbone)
    if sha256 != recipe["frozen_sha256"]:
        raise ValueError(f"the bridge in {folder} was trained between other frozen parts")
    return frozen | weights, recipe


def model_folder(name_or_folder: str | Path) -> Path:
    """Return the shipped folder of a preset's name, or any other folder as it is."""
    return SHIPPED / str(name_or_folder) if str(name_or_folder) in PRESETS else Path(name_or_folder)


def load_model(name_or_folder: str | Path = "tiny", config: Preset | None = None) -> Model:
    """Load a VLLM with its editor from a preset's shipped folder or one of the same layout.

    Args:
        name_or_folder: a preset's name or a model folder.
        config: all sizes; None: the recipe's preset, with the sizes of the trained editor.

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
    layer = editor_recipe.get("edit_layer")  # None: an older recipe, which does not record it
    if config is None:
        config = preset(backbone_recipe["config"])
        cfg = replace(
            config.backbone, edit_layer=config.backbone.edit_layer if layer is None else layer
        )
        config = replace(config, backbone=cfg, editor=_editor_config(folder, editor_recipe))
    cfg = config.backbone
    if layer not in (None, cfg.edit_layer):
        raise ValueError(
            f"the editor in {folder} was trained at edit layer {layer}, not {cfg.edit_layer}"
        )
    _check_editor(folder, config, editor)
    return Model(
        config=config,
        backbone=split_at(backbone, cfg.edit_layer),
        editor=editor,
        tokenizer=load_tokenizer(folder / "tokenizer.json", cfg.pad_id, cfg.bos_id, cfg.eos_id),
        backbone_sha256=backbone_recipe["sha256"],
        editor_sha256=editor_recipe["sha256"],
        folder=folder,
    )


def _editor_config(folder: Path, recipe: dict) -> EditorConfig:
    try:
        return EditorConfig(**recipe["editor"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the recipe of the editor in {folder} does not fit this version ({error}); retrain it"
        ) from error


def _check_editor(folder: Path, config: Preset, editor: dict) -> None:
    """Check that the editor's weights have the config's shapes."""
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
