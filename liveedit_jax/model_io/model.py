"""Model folders: a backbone with its tokenizer and its editor.

A model folder (for example `checkpoints/tiny`) holds

    tokenizer.json
    backbone/weights/  backbone/recipe.json
    editor/weights/    editor/recipe.json
"""

from __future__ import annotations

import shlex
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
from liveedit_jax.presets import PRESETS, PUBLISHED, preset

PACKAGE = Path(__file__).resolve().parents[1]
IN_WHEELS, IN_CHECKOUTS = PACKAGE / "_checkpoints", PACKAGE.parent / "checkpoints"
SHIPPED = IN_WHEELS if IN_WHEELS.is_dir() else IN_CHECKOUTS


@dataclass(frozen=True, eq=False)
class Model:
    """A frozen VLLM with its trained editor; weights are float32 nested dicts."""

    config: Preset
    config_name: str  # of the preset that the backbone's recipe names
    backbone: Any
    editor: Any  # None: it has no editor
    tokenizer: Tokenizer
    backbone_sha256: str
    editor_sha256: str | None
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
    shipped = SHIPPED / str(name_or_folder)
    return shipped if str(name_or_folder) in PRESETS and shipped.is_dir() else Path(name_or_folder)


def find_model(name_or_folder: str | Path) -> Path:
    """Return the folder of a model that is there.

    Raises:
        FileNotFoundError: there is none; the message says what to do.
    """
    name, folder = str(name_or_folder), model_folder(name_or_folder)
    if folder.is_dir():
        return folder
    if name in PUBLISHED:
        raise FileNotFoundError(f"no weights of {name!r} come along: {conversion(name)}")
    known = ", ".join(preset for preset in PRESETS if (SHIPPED / preset).is_dir())
    raise FileNotFoundError(f"no model {name!r}: not a preset ({known}) and not a folder")


def conversion(name: str) -> str:
    """Say how a person comes by a published model's folder."""
    command = f"`liveedit convert --model {name} --from DOWNLOADED --to FOLDER`"
    return f"convert its checkpoint first ({command}), then give that FOLDER as the model"


def has_editor(folder: Path) -> bool:
    """Return whether there is an editor in a model folder, complete or not."""
    return (folder / "editor").is_dir()


def no_editor(folder: Path) -> str:
    """Say in one sentence how a person comes by an editor."""
    model = shlex.quote(str(folder))
    train = f"python -m experiments.train_editor --config NAME --model {model} --ship {model}"
    return (
        f"no editor in {folder}: train one (`{train}`, NAME as its backbone/recipe.json says) or "
        f"import a released one (`liveedit import-editor FILE --model {model}`)"
    )


def load_model(
    name_or_folder: str | Path = "tiny", config: Preset | None = None, need_editor: bool = True
) -> Model:
    """Load a VLLM with its editor from a preset's shipped folder or one of the same layout.

    Args:
        name_or_folder: a preset's name or a model folder.
        config: all sizes; None: the recipe's preset, with the sizes of the trained editor.
        need_editor: False: a folder without an editor is opened, too.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: a part is corrupt, the editor was trained for another backbone, or `config` has
            another editor than the weights.
    """
    folder = find_model(name_or_folder)
    if need_editor and not has_editor(folder):
        raise FileNotFoundError(no_editor(folder))
    backbone, backbone_recipe = load_backbone(folder)
    chosen = preset(backbone_recipe["config"]) if config is None else config
    editor = editor_sha256 = None
    if has_editor(folder):
        editor, recipe = load_weights(folder / "editor")
        editor_sha256 = recipe["sha256"]
        if recipe["backbone_sha256"] != backbone_recipe["sha256"]:
            raise ValueError(f"the editor in {folder} was trained for another backbone; retrain it")
        if config is None:
            chosen = _as_trained(folder, chosen, recipe)
        elif recipe.get("edit_layer") not in (None, config.backbone.edit_layer):
            raise ValueError(
                f"the editor in {folder} was trained at edit layer {recipe['edit_layer']}, not "
                f"{config.backbone.edit_layer}"
            )
        _check_editor(folder, chosen, editor)
    cfg = chosen.backbone
    return Model(
        config=chosen,
        config_name=backbone_recipe["config"],
        backbone=split_at(backbone, cfg.edit_layer),
        editor=editor,
        tokenizer=load_tokenizer(folder / "tokenizer.json", cfg.pad_id, cfg.bos_id, cfg.eos_id),
        backbone_sha256=backbone_recipe["sha256"],
        editor_sha256=editor_sha256,
        folder=folder,
    )


def _as_trained(folder: Path, config: Preset, recipe: dict) -> Preset:
    """Return the preset with the editor and the edit layer that its recipe states."""
    layer = recipe.get("edit_layer")  # None: an older recipe, which does not record it
    cfg = config.backbone if layer is None else replace(config.backbone, edit_layer=layer)
    return replace(config, backbone=cfg, editor=_editor_config(folder, recipe))


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
