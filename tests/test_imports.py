"""Imports point one way: config, types, then the parts, then what uses them."""

import ast
from pathlib import Path

import liveedit_jax

ROOT = Path(liveedit_jax.__file__).parent
POSIX = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
LEVEL = {
    "backbone_config": 0,
    "backbone_presets": 0,
    "cache": 0,
    "config": 0,
    "types": 0,
    "presets": 0,
    "backbones": 1,
    "editors": 1,
    "editor": 1,
    "data": 1,
    "store": 1,
    "baselines": 2,
    "model_io": 2,
    "training": 2,
    "scaling": 2,
    "evaluation": 3,
    "live": 3,
    "session": 4,
    "report": 4,
    "cli": 5,
    "__main__": 6,
    "__init__": 6,
}


def test_no_file_imports_from_a_level_above_its_own():
    for file in ROOT.rglob("*.py"):
        own = file.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("liveedit_jax"):
                parts = node.module.split(".")[1:] or [alias.name for alias in node.names]
                used = parts[0]
                if used in LEVEL:
                    assert LEVEL[used] <= LEVEL[own], f"{file}: {node.module}"


def test_nothing_that_only_some_systems_have_is_imported_with_a_module():
    for file in ROOT.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:  # not inside `try` or a function
            names = [alias.name for alias in getattr(node, "names", ())]
            assert POSIX.isdisjoint([*names, getattr(node, "module", None)]), file


def test_files_stay_small():
    for file in [*ROOT.rglob("*.py"), *(ROOT.parent / "experiments").rglob("*.py")]:
        assert len(file.read_text().splitlines()) <= 450, file
