"""Examples in docstrings say what the functions do."""

import doctest
import importlib
from pathlib import Path

import pytest

import liveedit_jax

ROOT = Path(liveedit_jax.__file__).parent
FILES = sorted(file for file in ROOT.rglob("*.py") if ">>> " in file.read_text("utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_examples(file):
    name = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed
