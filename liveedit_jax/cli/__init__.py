"""What a person types: the `liveedit` program."""

from liveedit_jax.cli.program import main, parser

__all__ = ["main", "parser"]
