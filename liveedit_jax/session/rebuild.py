"""A repository after a change of model: whose edits it holds, and how they are made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from liveedit_jax.config import REFINE_N
from liveedit_jax.model_io.model import find_model, find_tokenizer, has_editor, no_editor
from liveedit_jax.model_io.weights import read_recipe
from liveedit_jax.session.encoder import ExpertEncoder
from liveedit_jax.session.images import ImageFile
from liveedit_jax.session.model import BATCH_N, OpenModel, open_model
from liveedit_jax.store import Edit, Rebuilt, Store, read_header, rebuild


def model_hashes(model: str | Path) -> tuple[str, str, str]:
    """Read the sha256 of a model's backbone, editor and tokenizer, without loading it.

    Raises:
        FileNotFoundError: no such model, or one without an editor.
        ValueError: a recipe is damaged.
    """
    folder = find_model(model)
    if not has_editor(folder):
        raise FileNotFoundError(no_editor(folder))
    backbone, editor = (read_recipe(folder / part) for part in ("backbone", "editor"))
    return backbone["sha256"], editor["sha256"], find_tokenizer(folder, backbone)[1]


def rebuild_repository(
    repo: str | Path, model: OpenModel | str | Path = "tiny", refine_n: int = REFINE_N
) -> Rebuilt:
    """Re-make all experts of a repository with another model.

    An edit that cannot be re-made (its picture is lost, its texts are too long) is skipped: it
    keeps its request and stays without an expert.

    Args:
        repo: the repository's file.
        model: a model of `open_model`, a preset's name or a model folder.
        refine_n: as in `open_editor`.

    Returns:
        How many were made, and why some were skipped.

    Raises:
        FileNotFoundError: no such repository or model.
        ValueError: not one edit fits the model; the repository stays as it was.
    """
    before = read_header(repo)  # a missing repository is refused before a model is loaded
    opened = model if isinstance(model, OpenModel) else open_model(model)
    encoder = ExpertEncoder(opened, refine_n)

    def make(store: Store, edits: Sequence[Edit]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        examples, skipped = [], {}
        for edit in edits:
            request = edit.request
            try:
                image = ImageFile(store.picture(request.image), edit.file)
                examples.append(opened.example(image, request.prompt, request.target))
            except ValueError as error:
                skipped[edit.id] = str(error)
        if not examples:
            return {}, skipped
        batch = opened.batch(examples, 1 if len(examples) == 1 else BATCH_N)
        return encoder.experts(batch, opened.features(batch), len(examples)), skipped

    return rebuild(repo, replace(encoder.header, dtype=before.dtype), make, BATCH_N)
