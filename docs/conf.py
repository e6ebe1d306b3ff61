"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version

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
html_css_files = ["pictures.css"]
html_theme_options = {"navigation_with_keys": True}


def _read_single_backticks_as_code(_app, _what, _name, _object, _options, lines) -> None:
    """Let docstrings write code as Markdown does, with one backtick."""
    single = re.compile(r"(?<![`:\w])`([^`\n]+)`(?![`_])")
    lines[:] = [single.sub(r"``\1``", line) for line in lines]


# Made by the library, never by its user: what their constructors take says nothing to them.
_NOT_CONSTRUCTED = {
    "AlarmInvocationInfo",
    "Clock",
    "DurableObjectId",
    "DurableObjectNamespace",
    "DurableObjectState",
    "DurableObjectStorage",
    "DurableObjectTransaction",
    "KvBackend",
    "Serializer",
    "SqlStorage",
    "SqlStorageCursor",
    "SyncKvStorage",
    "sync.Namespace",
    "sync.State",
    "sync.Stub",
    "integrations.dbapi.Connection",
    "integrations.dbapi.Cursor",
}


def _leave_out_constructors(_app, what, name, _object, _options, _signature, _returns):
    if what == "class" and name.removeprefix("durable_storage.") in _NOT_CONSTRUCTED:
        return "", None
    return None


# Public for the rooms of the library that use them, and of no use to an application.
_INTERNAL = {
    "DurableObjectNamespace.record",
    "FaultInjector.before",
    "Fault.matches",
    "History.retention_ms",
    "Hold.notice",
    "Hold.reached_or_noticed",
    "ManualClock.busy",
    "ManualClock.watch_wall",
    "Migration.renames",
    "Migration.steps",
    "Migration.transfers",
    "MsgpackSerializer.build_dataclass",
    "Runtime.loop",
    "Runtime.open_object",
    "Runtime.registry",
    "SqlStorageCursor.account",
    "SqlStorageCursor.cancel",
    "SqlStorageCursor.drain",
    "SqlStorageCursor.made",
    "SqlStorageCursor.open",
}


def _leave_out_internals(_app, _what, _name, member, skip, _options):
    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
    return True if getattr(function, "__qualname__", None) in _INTERNAL else skip


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _read_single_backticks_as_code, priority=100)
    app.connect("autodoc-process-signature", _leave_out_constructors)
    app.connect("autodoc-skip-member", _leave_out_internals)
