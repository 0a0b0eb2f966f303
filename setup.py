"""Take the weights of `tiny` and `smol` into wheels; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("tiny", "smol")
PARTS = ("tokenizer.json", "backbone", "editor")  # not `baselines`, which only comparisons need


class BuildWithWeights(build_py):
    """Also copies checkpoints/NAME to liveedit_jax/_checkpoints/NAME; not when editable."""

    def weights(self) -> dict[Path, Path]:
        """Map each file to its place in the wheel."""
        if self.editable_mode:
            return {}
        here = Path("checkpoints")  # setuptools builds in this file's folder
        parts = [here / name / part for name in SHIPPED for part in PARTS]
        files = [file for part in parts for file in (part, *part.rglob("*")) if file.is_file()]
        to = Path(self.build_lib, "liveedit_jax", "_checkpoints")
        return {file: to / file.relative_to(here) for file in files}

    def run(self):
        """Copy the package, then the weights."""
        super().run()
        for file, to in self.weights().items():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)

    def get_outputs(self, include_bytecode=True):
        """List what is installed, for installers."""
        return super().get_outputs(include_bytecode) + [str(to) for to in self.weights().values()]

    def get_source_files(self):
        """List what a source distribution needs besides."""
        return super().get_source_files() + [str(file) for file in self.weights()]


setup(cmdclass={"build_py": BuildWithWeights})
