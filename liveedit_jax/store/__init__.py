"""The durable repository folder: a checksummed journal, expert rows, images. Knows no JAX."""

from liveedit_jax.store.folder import Header, Store, open_store, read_header
from liveedit_jax.store.history import Edit, History, Request
from liveedit_jax.store.rebuild import rebuild

__all__ = [
    "Edit",
    "Header",
    "History",
    "Request",
    "Store",
    "open_store",
    "read_header",
    "rebuild",
]
