"""Benchmarks, records, tokenising into roles, and the pretraining mixture."""

from liveedit_jax.data.records import Record
from liveedit_jax.data.stream import edit_stream

__all__ = ["Record", "edit_stream", "load_benchmark"]


def __getattr__(name: str):
    """Import `load_benchmark` on first use, so that nothing else waits for TFDS."""
    if name != "load_benchmark":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from liveedit_jax.data.benchmarks import load_benchmark

    return load_benchmark
