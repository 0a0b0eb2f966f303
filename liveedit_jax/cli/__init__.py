"""The `liveedit` program: everything that a person types."""

import sys
from collections.abc import Sequence

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program (`cli.program.main`); a missing package is one line, too."""
    try:
        from liveedit_jax.cli.program import main as run
    except ImportError as error:
        said = f"{error}: install what liveedit-jax requires (pip install liveedit-jax)"
        print(f"liveedit: error: {said}", file=sys.stderr)
        return 2
    return run(argv)


def parser():
    """Make the parser of the program's arguments (`cli.program.parser`)."""
    from liveedit_jax.cli.program import parser as make

    return make()
