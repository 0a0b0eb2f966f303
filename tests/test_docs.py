"""What the documentation names is there: links lead to files, and so do paths in backticks."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Folders that a path may be written from: the repository's, or the package's.
HOMES = (ROOT, ROOT / "liveedit_jax")
FOLDERS = "liveedit_jax experiments tests docs examples checkpoints".split()
PACKAGES = [path.name for path in (ROOT / "liveedit_jax").iterdir() if path.is_dir()]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
PATH = re.compile(rf"`((?:{'|'.join([*FOLDERS, *PACKAGES])})/[\w./-]+)`")
# Files that a reader writes, and what a build makes.
MADE = {"backbones/linear_bridge.py", "liveedit_jax/baselines/ft_norm.py", "docs/_build/html"}
PLACEHOLDER = re.compile(r"[A-Z]{3,}")  # NAME, PART: for the reader to fill in


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text("utf-8")
    if page.parent.name == "results":  # the past is not rewritten
        text = "\n".join(f"]({target})" for target in LINK.findall(text))
    links = [target for target in LINK.findall(text) if "://" not in target]
    broken = [t for t in links if "generated/" not in t and not (page.parent / t).exists()]
    assert not broken
    paths = {path for path in PATH.findall(text) if not PLACEHOLDER.search(path)} - MADE
    assert not [path for path in paths if not any((home / path).exists() for home in HOMES)]
