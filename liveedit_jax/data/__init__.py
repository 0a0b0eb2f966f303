"""Benchmarks, records, tokenising into roles, and the pretraining mixture."""

from liveedit_jax.data.records import Record
from liveedit_jax.data.stream import edit_stream

__all__ = ["Record", "edit_stream"]
