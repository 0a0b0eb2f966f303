"""Model folders: a backbone with its tokenizer and its editor.

A model folder (for example `checkpoints/tiny`) holds

    tokenizer.json
    backbone/weights/  backbone/recipe.json
    editor/weights/    editor/recipe.json

Somebody else may have made it. So nothing in it is executed: its recipe names a preset, and a
Python file with a preset of one's own is given by hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.backbones.published import CONFIG
from liveedit_jax.backbones.registry import read_architecture
from liveedit_jax.config import EditorConfig, Preset
from liveedit_jax.data.tokenizer import Tokenizer, check_ids, load_tokenizer
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.model_io.frozen import load_smol_parts
from liveedit_jax.model_io.weights import load_weights, save_weights
from liveedit_jax.presets import (
    DATASETS,
    PAPER_EDITOR,
    PAPER_EDITOR_TRAIN,
    PRESETS,
    PUBLISHED,
)
from liveedit_jax.store.durable import replace_file

PACKAGE = Path(__file__).resolve().parents[1]
IN_WHEELS, IN_CHECKOUTS = PACKAGE / "_checkpoints", PACKAGE.parent / "checkpoints"
TOKENIZER, NEW_TOKENIZER = "tokenizer.json", "tokenizer.new.json"
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
    tokenizer_sha256: str
    folder: Path


def recipe_preset(folder: Path, recipe: dict, given: Preset | None = None) -> Preset:
    """Return the preset that weights in `folder` were made with.

    Args:
        folder: of the weights.
        recipe: theirs.
        given: a preset that the user gives instead, from a file of their own.

    Raises:
        ValueError: the recipe names none, but perhaps a file, which is not run.
    """
    if given is not None:
        return given
    if "published" in recipe:
        return _published_preset(folder, recipe["published"])
    name = recipe.get("config")
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    said = f"the recipe in {folder} names the config {name!r}"[:300]
    if isinstance(name, str) and name.endswith(".py"):
        raise ValueError(
            f"{said}: code that a model names is not run. If you trust it, give that file as "
            "--config of experiments.lifelong_eval or train_editor, or register its CONFIG in "
            "liveedit_jax.presets.PRESETS under that name"
        )
    raise ValueError(f"{said}, which is no preset of this version ({', '.join(sorted(PRESETS))})")


def _published_preset(folder: Path, files: Any) -> Preset:
    """Return a preset of the architecture that a published checkpoint's files describe."""
    are_objects = isinstance(files, dict) and all(isinstance(one, dict) for one in files.values())
    if not are_objects or CONFIG not in files:
        raise ValueError(f"the recipe in {folder} has no {CONFIG} of its checkpoint")
    try:
        cfg = read_architecture(files)
    except ValueError as error:
        raise ValueError(f"the recipe in {folder}: {error}") from error
    return Preset(
        dataset=DATASETS["mojiedit"],
        backbone=cfg,
        editor=PAPER_EDITOR,
        editor_train=PAPER_EDITOR_TRAIN,
    )


def load_backbone(folder: Path, given: Preset | None = None) -> tuple[Any, dict]:
    """Load a backbone's weights and recipe; a folder with a bridge alone gets its frozen parts.

    Args:
        folder: the model folder.
        given: a preset instead of the one that the recipe names.

    Raises:
        FileNotFoundError, ImportError: no checkpoint, or its frozen parts are not installed.
        OSError: the machine cannot read it.
        ValueError: a part is damaged or of other shapes than the preset's, or the bridge was
            trained between other parts.
    """
    weights, recipe = load_weights(folder / "backbone")
    cfg = recipe_preset(folder / "backbone", recipe, given).backbone
    if "frozen_sha256" in recipe:
        frozen, sha256 = load_smol_parts(cfg)
        if sha256 != recipe["frozen_sha256"]:
            raise ValueError(f"the bridge in {folder} was trained between other frozen parts")
        weights = frozen | weights
    _check_backbone(folder, cfg, weights)
    return weights, recipe


def save_backbone(
    folder: Path, weights, recipe: dict, tokenizer: Tokenizer, dtype=jnp.float16
) -> str:
    """Write a backbone and its tokenizer into a model folder; return the weights' sha256.

    They go together: the recipe has the tokenizer's sha256. Until it is replaced, the new tokenizer
    waits beside the old one, so that either model is whole at every moment.

    Raises:
        OSError, ValueError: as `save_weights`.
    """
    fresh = folder / NEW_TOKENIZER
    tokenizer.save(fresh)
    made = recipe | {"tokenizer_sha256": hashlib.sha256(fresh.read_bytes()).hexdigest()}
    sha256 = save_weights(folder / "backbone", weights, made, dtype)
    replace_file(folder / TOKENIZER, fresh.read_bytes())
    fresh.unlink()
    return sha256


def find_tokenizer(folder: Path, recipe: dict) -> tuple[Path, str]:
    """Find the tokenizer that a backbone was saved with; return its file and sha256.

    Args:
        folder: the model folder.
        recipe: its backbone's. One of an older version does not say which tokenizer it is for.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not the one that the backbone was saved with.
    """
    wanted, file = recipe.get("tokenizer_sha256"), folder / TOKENIZER
    for found in (file,) if wanted is None else (file, folder / NEW_TOKENIZER):
        if found.is_file():
            sha256 = hashlib.sha256(found.read_bytes()).hexdigest()
            if wanted in (None, sha256):
                return found, sha256
    if not file.is_file():
        raise FileNotFoundError(f"no tokenizer at {file}")
    raise ValueError(
        f"{file} is not the tokenizer that the backbone beside it was saved with: restore "
        "both together"
    )


def open_tokenizer(folder: Path, cfg: BackboneConfig, recipe: dict) -> tuple[Tokenizer, str]:
    """Open the tokenizer of a model folder; return it and its file's sha256.

    Args:
        folder: the model folder.
        cfg: its backbone.
        recipe: its backbone's.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or not the one that the backbone was saved with.
    """
    file, sha256 = find_tokenizer(folder, recipe)
    tokenizer = load_tokenizer(file, cfg.pad_id, cfg.bos_id, cfg.eos_id)
    check_ids(tokenizer, cfg.decoder.vocab_n, file)
    return tokenizer, sha256


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
        OSError: the machine cannot read it: no permission, memory or device.
        ValueError: a part is corrupt, the editor was trained for another backbone, or `config` has
            another editor than the weights.
    """
    folder = find_model(name_or_folder)
    if need_editor and not has_editor(folder):
        raise FileNotFoundError(no_editor(folder))
    backbone, backbone_recipe = load_backbone(folder, config)
    chosen = recipe_preset(folder / "backbone", backbone_recipe, config)
    editor = editor_sha256 = None
    if has_editor(folder):
        editor, recipe = load_weights(folder / "editor")
        editor_sha256 = recipe["sha256"]
        if recipe.get("backbone_sha256") != backbone_recipe["sha256"]:
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
    tokenizer, tokenizer_sha256 = open_tokenizer(folder, cfg, backbone_recipe)
    return Model(
        config=chosen,
        config_name=str(backbone_recipe.get("config")),
        backbone=split_at(backbone, cfg.edit_layer),
        editor=editor,
        tokenizer=tokenizer,
        backbone_sha256=backbone_recipe["sha256"],
        editor_sha256=editor_sha256,
        tokenizer_sha256=tokenizer_sha256,
        folder=folder,
    )


def _as_trained(folder: Path, config: Preset, recipe: dict) -> Preset:
    """Return the preset with the editor and the edit layer that its recipe states.

    Raises:
        ValueError: the recipe states none that this version knows.
    """
    try:
        editor, cfg = _editor_config(dict(recipe["editor"])), config.backbone
        layer = recipe.get("edit_layer")  # None: an older recipe, which does not record it
        if layer is not None:
            if type(layer) is not int:
                raise ValueError(f"edit_layer is {layer!r}")
            cfg = replace(cfg, edit_layer=layer)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the recipe of the editor in {folder} does not fit this version ({error}); retrain it"
        ) from error
    return replace(config, backbone=cfg, editor=editor)


def _editor_config(stated: dict) -> EditorConfig:
    """Make an editor's config of plain values, each of the kind that it has by default.

    Raises:
        TypeError, ValueError: a field is unknown, or of another kind.
    """
    for field in fields(EditorConfig):
        kind, value = type(field.default), stated.get(field.name, field.default)
        kinds = {float: (int, float), type(None): (int, type(None))}.get(kind, (kind,))
        is_count = type(value) is int and kind is not float
        least = 0 if field.default == 0 else 1  # of a count
        if type(value) not in kinds or (is_count and not least <= value < 2**31):
            raise ValueError(f"{field.name} is {value!r}"[:100])
    return EditorConfig(**stated)


def _check_backbone(folder: Path, cfg: BackboneConfig, weights: dict) -> None:
    """Check that a backbone's weights have the config's shapes."""
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
        layers_n = len(jax.tree.leaves(weights["lower"])[0])  # wherever they were divided
        cfg = replace(cfg, edit_layer=layers_n - 1)
    wanted = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    _compare_shapes(f"the backbone in {folder}", wanted, weights)


def _check_editor(folder: Path, config: Preset, editor: dict) -> None:
    """Check that the editor's weights have the config's shapes."""
    width, vision_n = config.backbone.width, config.backbone.vision_n
    wanted = jax.eval_shape(lambda: init_params(jax.random.key(0), config.editor, width, vision_n))
    _compare_shapes(f"the editor in {folder}", wanted, editor)


def _compare_shapes(name: str, wanted: dict, found: dict) -> None:
    def shapes(tree) -> dict:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

    ours, theirs = shapes(wanted), shapes(found)
    wrong = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    if wrong:
        raise ValueError(
            f"{name} has other shapes than the config: {wrong[0]} is "
            f"{theirs.get(wrong[0])}, not {ours.get(wrong[0])} ({len(wrong)} such leaves)"
        )
