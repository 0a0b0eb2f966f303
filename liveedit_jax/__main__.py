"""`python -m liveedit_jax` is the `liveedit` program."""

import sys

from liveedit_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
