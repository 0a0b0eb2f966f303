"""A repository after a change of model: whose edits it holds, and how they are made again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from liveedit_jax.model_io.model import find_model, has_editor, no_editor
from liveedit_jax.session.encoder import ExpertEncoder
from liveedit_jax.session.images import ImageFile
from liveedit_jax.session.model import BATCH_N, OpenModel, open_model
from liveedit_jax.store import Edit, rebuild


def model_hashes(model: str | Path) -> tuple[str, str]:
    """Read the sha256 of a model's backbone and editor from its recipes.

    Raises:
        FileNotFoundError: no such model, or one without an editor.
        ValueError: a recipe is damaged.
    """
    folder, found = find_model(model), []
    if not has_editor(folder):
        raise FileNotFoundError(no_editor(folder))
    for part in ("backbone", "editor"):
        file = folder / part / "recipe.json"
        if not file.is_file():
            raise FileNotFoundError(f"no model {str(model)!r}: {file} is missing")
        try:
            found.append(str(json.loads(file.read_bytes())["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged; restore it from version control") from error
    return found[0], found[1]


def rebuild_repository(repo: str | Path, model: OpenModel | str | Path = "tiny") -> int:
    """Re-make all experts of a repository with another model; returns how many.

    Raises:
        FileNotFoundError: no such repository or model.
        ValueError: a recorded request does not fit the model; the repository stays as it was.
    """
    opened = model if isinstance(model, OpenModel) else open_model(model)
    encoder = ExpertEncoder(opened)

    def make(edits: Sequence[Edit], image_of) -> dict[str, np.ndarray]:
        examples = []
        for edit in edits:
            image = ImageFile(image_of(edit.request.image), edit.file)
            examples.append(opened.example(image, edit.request.prompt, edit.request.target))
        batch = opened.batch(examples, 1 if len(edits) == 1 else BATCH_N)
        return encoder.experts(batch, opened.features(batch), len(edits))

    return rebuild(repo, encoder.header, make, BATCH_N)
