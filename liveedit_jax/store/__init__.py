"""The durable repository: one SQLite file of requests, pictures and experts. Knows no JAX."""

from liveedit_jax.store.rebuild import Rebuilt, rebuild
from liveedit_jax.store.records import Edit, Header, History, Request, image_sha256
from liveedit_jax.store.store import Store, open_store, read_header

__all__ = [
    "Edit",
    "Header",
    "History",
    "Rebuilt",
    "Request",
    "Store",
    "image_sha256",
    "open_store",
    "read_header",
    "rebuild",
]
