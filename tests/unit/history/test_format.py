"""What is on disk is what ``docs/format.md`` says, read with nothing but that page."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path

from durable_storage.history import retention

from .rig import Session


def word(data: bytes, offset: int, size: int = 4) -> int:
    return int.from_bytes(data[offset : offset + size], "big")


def sha(data: bytes, size: int = 16) -> bytes:
    return hashlib.sha256(data).digest()[:size]


def test_the_documented_bytes_are_enough_to_restore(tmp_path: Path) -> None:
    session = Session(tmp_path / "object.sqlite")
    session.run("CREATE TABLE t(a)")
    for number in range(200):
        session.run(("INSERT INTO t VALUES(?)", str(number) * 50))
        if number % 60 == 0:
            session.fold()
    session.run("DELETE FROM t")
    session.vacuum()
    session.fold()
    session.run("INSERT INTO t VALUES(hex(zeroblob(80000)))")
    bookmark = session.log.current_bookmark()
    reader = session.log._reader
    session.fold()
    retention.make_snapshot(reader, reader.log.entries()[1], session.log._files)
    session.close()

    history = Path(f"{session.path}-history")
    identity = bytes.fromhex(json.loads((history / "identity").read_text())["object_id"])
    database = bytearray()
    previous, number, position = bytes(16), 0, (0, 0, 0)
    states = {}
    all_flags = 0
    for segment in sorted((history / "log").iterdir()):
        data = segment.read_bytes()
        assert int(segment.name.removesuffix(".segment"), 16) == number + 1
        while data:
            header = data[:136]
            assert header[:4] == b"DSHB"
            assert word(header, 4, 2) == 1
            assert word(header, 132) == zlib.crc32(header[:132])
            assert header[8:24] == identity
            number += 1
            assert word(header, 24, 8) == number
            assert header[116:132] == previous
            previous = sha(header)
            flags, times_size, frames_size = word(header, 6, 2), word(header, 92), word(header, 96)
            payload = data[136 : 136 + times_size + frames_size]
            assert header[100:116] == sha(payload)
            all_flags |= flags
            times_stream, index_stream = zlib.decompressobj(), zlib.decompressobj()
            times = times_stream.decompress(payload[:times_size])
            heads = index_stream.decompress(times_stream.unused_data)
            stored, frames = payload[times_size:], b""
            sizes = [*struct.iter_unpack(">I", index_stream.unused_data)]
            assert bool(sizes) == bool(flags & 128)
            page_size, count = word(header, 60), word(header, 52)
            frame_size = 24 + page_size
            if sizes:
                *sizes, (step,) = sizes
                for (size,) in sizes:
                    assert len(frames) % (step * frame_size) == 0
                    frames += zlib.decompress(stored[:size])
                    stored = stored[size:]
                assert not stored
                assert len(frames) > (len(sizes) - 1) * step * frame_size
            else:
                frames = zlib.decompress(stored) if flags & 1 else stored
            assert len(frames) == count * frame_size
            assert heads == b"".join(frames[n * frame_size :][:8] for n in range(count))
            for index in range(count):
                frame = frames[index * (24 + page_size) :][: 24 + page_size]
                page, size = word(frame, 0), word(frame, 4)
                start = (page - 1) * page_size
                database = database.ljust(start, b"\0")
                database[start : start + page_size] = frame[24:]
                if size:
                    database = database[: size * page_size].ljust(size * page_size, b"\0")
                    position = (word(header, 40), word(header, 44), word(header, 48) + index)
                    states[position] = bytes(database)
            assert word(times, len(times) - 12) == position[2]
            data = data[136 + len(payload) :]
    assert all_flags & 128
    assert states[position] == Path(session.path).read_bytes()

    words = [int(group, 16) for group in bookmark.split("-")[:3]]
    seal = hashlib.blake2b(
        struct.pack(">3I", *words), key=identity, digest_size=16, person=b"bookmark"
    )
    assert bookmark.endswith(seal.hexdigest())
    assert tuple(words) in states

    base = json.loads((history / "base").read_text())
    status = os.stat(session.path)
    assert tuple(base["position"]) == position
    assert (base["number"], base["salts"]) == (number, "")
    assert (base["size"], base["modified_ns"]) == (status.st_size, status.st_mtime_ns)

    (snapshot,) = (history / "snapshots").iterdir()
    data = snapshot.read_bytes()
    assert data[-32:] == sha(data[:-32], 32)
    assert word(data, 76) == zlib.crc32(data[:76])
    page_size = word(data, 44)
    image = bytearray(word(data, 48) * page_size)
    offset = 80
    while count := word(data, offset + 4):
        first, size = word(data, offset), word(data, offset + 8)
        start = (first - 1) * page_size
        image[start : start + count * page_size] = zlib.decompress(data[offset + 12 :][:size])
        offset += 12 + size
    assert bytes(image) == states[struct.unpack_from(">3I", data, 32)]
