"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from pathlib import Path

project = "durable_storage"
author = "The durable_storage authors"
project_copyright = f"2026, {author}"
release = version = installed_version("durable-storage")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist", "attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80

# The build asks no other site for anything: it has to work without a network.
intersphinx_mapping: dict[str, tuple[str, None]] = {}

html_theme = "furo"
html_title = f"durable_storage {release}"
html_static_path = ["_static"]
html_theme_options = {"navigation_with_keys": True}


def _read_single_backticks_as_code(_app, _what, _name, _object, _options, lines) -> None:
    """Let docstrings write code as Markdown does, with one backtick."""
    single = re.compile(r"(?<![`:\w])`([^`\n]+)`(?![`_])")
    lines[:] = [single.sub(r"``\1``", line) for line in lines]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _read_single_backticks_as_code, priority=100)
    Path(app.srcdir, "_static").mkdir(exist_ok=True)
