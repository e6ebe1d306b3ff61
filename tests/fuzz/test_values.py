"""Stored bytes of any kind: reading them runs nothing, ends, and needs little memory."""

from __future__ import annotations

import os
import pathlib
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_storage import DurableStorageError
from durable_storage.serializers import JsonSerializer, MsgpackSerializer

CORPUS = [
    bytes.fromhex(line)
    for line in (pathlib.Path(__file__).parent / "corpus" / "encoded.txt").read_text().split()
]
SERIALIZERS = (MsgpackSerializer(), JsonSerializer())
# What the interpreter and a value of a few nodes need, whatever the bytes say.
MEMORY_MAX_BYTES = 2_000_000

plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.text(max_size=8),
        st.binary(max_size=8), st.floats(allow_nan=False), st.datetimes(timezones=st.timezones()),
        st.dates(), st.times(), st.timedeltas(), st.decimals(allow_nan=False), st.uuids(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=4), inner, max_size=4),
        st.tuples(inner, inner),
        st.frozensets(st.integers(0, 9), max_size=3),
        st.sets(st.text(max_size=2), max_size=3),
    ),
    max_leaves=8,
)  # fmt: skip


def read(serializer: Any, data: bytes) -> None:
    """Read bytes that may be anything: a value, or an error of the library."""
    tracemalloc.start()
    # Of this thread alone: a machine that is busy with others does not make it slow.
    began = time.thread_time()
    try:
        serializer.loads(data)
    except DurableStorageError:
        pass
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < MEMORY_MAX_BYTES + 200 * len(data), f"{len(data)} bytes took {most}"
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("serializer", SERIALIZERS, ids=lambda each: each.name)
@pytest.mark.parametrize("data", CORPUS, ids=lambda data: data.hex()[:24])
def test_bytes_of_the_corpus_do_no_harm(serializer: Any, data: bytes) -> None:
    for prefix in (b"", *(CORPUS[0][:1],), b"\x91", b"[", b"\x81\xa1a"):
        read(serializer, prefix + data)
    assert not os.path.exists("/tmp/owned")


@pytest.mark.parametrize("serializer", SERIALIZERS, ids=lambda each: each.name)
@pytest.mark.parametrize("data", [b"\x91", b"\x81\xa1a", b"[", b'{"a":', b"\xc7\x01\x01"])
@pytest.mark.parametrize("times", [100, 10_000, 200_000])
def test_deep_nesting_is_refused_and_does_not_overflow(
    serializer: Any, data: bytes, times: int
) -> None:
    read(serializer, data * times)


@pytest.mark.parametrize("serializer", SERIALIZERS, ids=lambda each: each.name)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_do_no_harm(serializer: Any, data: bytes) -> None:
    read(serializer, data)


@given(value=plain, chance=st.randoms(use_true_random=False))
def test_damaged_values_do_no_harm(value: object, chance: Any) -> None:
    serializer = MsgpackSerializer()
    data = bytearray(serializer.dumps(value))
    for _ in range(chance.randint(1, 4)):
        kind = chance.random()
        at = chance.randrange(len(data)) if data else 0
        if kind < 0.6 and data:
            data[at] = chance.randrange(256)
        elif kind < 0.8:
            del data[at : at + chance.randint(1, 5)]
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 5))
    read(serializer, bytes(data))


@given(value=plain)
def test_what_was_written_is_what_is_read(value: object) -> None:
    serializer = MsgpackSerializer()
    found = serializer.loads(serializer.dumps(value))
    assert found == value
    assert type(found) is type(value)
