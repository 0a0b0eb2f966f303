"""LiveEdit-JAX: lifelong knowledge editing of vision-language models (arXiv 2411.15432).

    model = liveedit_jax.open_model("tiny")
    editor = liveedit_jax.open_editor(model, "my-edits", write=True)
    editor.edit("cat.png", "What is this called?", "marmalade")
    liveedit_jax.evaluate("liveedit", model, records, marks=(1, 100))
    liveedit_jax.train_editor(model, records, steps_n=20)

What is not named here is loaded from its module, and only when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liveedit_jax.session import open_editor, open_model
    from liveedit_jax.session.evaluation import evaluate
    from liveedit_jax.session.training import train_editor

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "open_editor", "open_model", "train_editor"]

_HOME = {  # what is loaded when it is asked for, so that `import liveedit_jax` is quick
    "evaluate": "liveedit_jax.session.evaluation",
    "open_editor": "liveedit_jax.session",
    "open_model": "liveedit_jax.session",
    "train_editor": "liveedit_jax.session.training",
}


def __getattr__(name: str):
    """Load a name of the interface."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the interface, loaded or not."""
    return sorted({*globals(), *_HOME})
