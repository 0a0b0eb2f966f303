"""The examples of the guides, carried out as a reader would: in a copy of the package.

Each guide names the files to touch and shows what goes there. Here the shown blocks are put into
these files, and a process of its own runs what the guide promises.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKS = Path(__file__).with_name("guides_checks.py")


def blocks(guide: str) -> list[str]:
    text = (ROOT / "docs" / "guides" / f"{guide}.md").read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


class Copy:
    """A copy of the package that blocks are put into."""

    def __init__(self, folder: Path):
        self.folder, self.package = folder, folder / "liveedit_jax"
        shutil.copytree(ROOT / "liveedit_jax", self.package)

    def put(self, file: str, block: str, before: str) -> None:
        text = (self.package / file).read_text("utf-8")
        assert text.count(before) == 1, f"{file} has {text.count(before)} of {before!r}"
        (self.package / file).write_text(text.replace(before, block + before), "utf-8")

    def swap(self, file: str, old: str, new: str) -> None:
        text = (self.package / file).read_text("utf-8")
        assert text.count(old) == 1, f"{file} has {text.count(old)} of {old!r}"
        (self.package / file).write_text(text.replace(old, new), "utf-8")

    def write(self, file: str, block: str) -> None:
        (self.package / file).write_text(block, "utf-8")


def add_metric(copy: Copy) -> None:
    row, function, probe = blocks("add_metric")
    copy.put("evaluation/metrics.py", row, ")\nEDIT = ")
    copy.put("evaluation/cases.py", probe, '        Probe("text_locality"')
    copy.put("evaluation/cases.py", f"{function}\n\n", "def make_case(")
    imports = "from liveedit_jax.data.images import open_picture, picture_bytes\n"
    copy.put(
        "evaluation/cases.py", f"import io\nfrom PIL import ImageOps\n{imports}", "import hashlib"
    )


def add_dataset(copy: Copy) -> None:
    benchmark, budget, _ = blocks("add_dataset")
    copy.put("data/annotations.py", benchmark, '    "evqa": ')
    copy.put("presets.py", budget, '    "evqa": DatasetConfig')


def add_editor(copy: Copy) -> None:
    module, row = blocks("add_editor")
    copy.write("baselines/ft_norm.py", module)
    copy.put("baselines/table.py", row, '    "ft_l": FtL(),')
    name = "from liveedit_jax.baselines.grace import Grace\n"
    copy.put("baselines/table.py", "from liveedit_jax.baselines.ft_norm import FtNorm\n", name)


def add_backbone(copy: Copy) -> None:
    module, entry = blocks("add_backbone")
    copy.write("backbones/linear_bridge.py", module)
    copy.put("backbones/registry.py", entry, "    Family(vision=EVA, bridge=QFORMER, decoder=OPT")
    imports = "from liveedit_jax.backbones import linear_bridge\n"
    copy.put("backbones/registry.py", imports, "from liveedit_jax.backbones.clip_vision import")


def add_routing_rule(copy: Copy) -> None:
    field, weights, _ = blocks("add_routing_rule")
    copy.put("config.py", field, "    official_double_layer: bool")
    last = "    return hit, masked_softmax(competing, hit, axis) * jax.nn.sigmoid(score)\n"
    copy.swap("editor/routing.py", last, weights)


GUIDES = (add_metric, add_dataset, add_editor, add_backbone, add_routing_rule)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Copy:
    """A copy with the examples of all guides."""
    made = Copy(tmp_path_factory.mktemp("guides"))
    for guide in GUIDES:
        guide(made)
    return made


def test_examples_of_guides_do_what_they_promise(copy):
    code = "import sys; sys.path[:] = ['.', *sys.path[1:]]; exec(open(sys.argv[1]).read())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(CHECKS)], cwd=copy.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {guide.__name__ for guide in GUIDES} <= set(done.stdout.split())
