"""A model with its edits: what people use from Python."""

from liveedit_jax.session.editor import (
    Answer,
    Editor,
    Fired,
    model_hashes,
    open_editor,
    rebuild_repository,
)

__all__ = ["Answer", "Editor", "Fired", "model_hashes", "open_editor", "rebuild_repository"]
