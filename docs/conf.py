"""The documentation site: `make docs` builds it, warnings are errors."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from liveedit_jax import __version__  # noqa: E402

project = "LiveEdit-JAX"
author = "The LiveEdit-JAX authors"
copyright = author
version = release = __version__

extensions = [
    "api_pages",
    "myst_parser",
    "sphinx.ext.autodoc",
    "plain_docstrings",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
default_role = "code"
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Fields and classes of several modules share names; links go to the nearest.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "LiveEdit-JAX"
html_static_path: list[str] = []
