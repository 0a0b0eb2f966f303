"""LiveEdit-JAX: lifelong knowledge editing of vision-language models (arXiv 2411.15432)."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`open_editor`, loaded when it is asked for, so that the program starts quickly."""
    if name == "open_editor":
        from liveedit_jax.session import open_editor

        return open_editor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
