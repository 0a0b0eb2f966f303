"""A model in memory, and with its edits: what people use from Python."""

from liveedit_jax.session.editing_session import EditingSession, open_editor
from liveedit_jax.session.images import Image, ImageFile
from liveedit_jax.session.model import OpenModel, open_model
from liveedit_jax.session.rebuild import model_hashes, rebuild_repository
from liveedit_jax.session.results import Answer, EditResult, RoutedEdit

__all__ = [
    "Answer",
    "EditResult",
    "EditingSession",
    "Image",
    "ImageFile",
    "OpenModel",
    "RoutedEdit",
    "model_hashes",
    "open_editor",
    "open_model",
    "rebuild_repository",
]
