"""Configuration files of any content: read, or refused with an error that says why."""

from __future__ import annotations

import os
import pathlib
import tempfile
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_storage import DurableStorageError
from durable_storage.runtime.wrangler import read_wrangler

pytest.importorskip("json5", reason="JSONC is read with json5")

CORPUS = [
    line.replace("\\n", "\n")
    for line in (pathlib.Path(__file__).parent / "corpus" / "wrangler.txt").read_text().splitlines()
]
KEYS = (
    "name", "main", "durable_objects", "bindings", "class_name", "script_name", "migrations", "tag",
    "new_classes", "new_sqlite_classes", "renamed_classes", "deleted_classes", "from", "to", "env",
    "vars", "production", "transferred_classes", "from_script",
)  # fmt: skip
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.sampled_from(KEYS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, name)
        pathlib.Path(path).write_bytes(content)
        for environment in (None, "production"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read_wrangler(path, environment=environment)
                except DurableStorageError:
                    pass


NAMES = ("wrangler.json", "wrangler.jsonc", "wrangler.toml")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", CORPUS)
def test_a_file_of_the_corpus_is_read_or_refused(text: str, name: str) -> None:
    read(text.encode("utf-8", "surrogatepass"), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\0", b"\xef\xbb\xbf{}", b"[" * 100_000])
def test_a_file_that_is_no_text_is_read_or_refused(content: bytes, name: str) -> None:
    read(content, name)


@pytest.mark.parametrize("name", NAMES)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_arbitrary_content_is_read_or_refused(content: bytes, name: str) -> None:
    read(content, name)


@given(tree=st.dictionaries(st.sampled_from(KEYS), trees, max_size=5))
def test_any_tree_of_known_keys_is_read_or_refused(tree: object) -> None:
    import json

    read(json.dumps(tree).encode(), "wrangler.json")
