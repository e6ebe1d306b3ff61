"""Other users of the machine: nothing is theirs to read, and their links lead nowhere."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from durable_storage import DurableObject, DurableStorageError, History, Runtime
from durable_storage.testing import evict_durable_object


class Thing(DurableObject):
    async def alarm(self) -> None: ...

    async def put(self, value: object) -> str:
        self.ctx.storage.put("key", value)
        self.ctx.storage.set_alarm(4_000_000_000_000)
        return await self.ctx.storage.get_current_bookmark()

    async def restore(self, bookmark: str) -> None:
        await self.ctx.storage.on_next_session_restore_bookmark(bookmark)


def _modes(root: pathlib.Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")
    } | {"": stat.S_IMODE(root.stat().st_mode)}


@pytest.mark.anyio
@pytest.mark.parametrize("mask", [0o000, 0o022])
async def test_everything_in_a_data_directory_is_its_owners_alone(
    tmp_path: pathlib.Path, mask: int
) -> None:
    root = tmp_path / "data"
    before = os.umask(mask)
    try:
        async with Runtime(root, history=History(segment_size_bytes=4096)) as runtime:
            thing = runtime.namespace(Thing).get_by_name("a")
            bookmark = await thing.put("x" * 50_000)
            await thing.put("y")
            await evict_durable_object(thing)
            await thing.restore(bookmark)
            await evict_durable_object(thing)
            await thing.put("z")
            during = _modes(root)
        for path, mode in {**during, **_modes(root)}.items():
            kind = 0o700 if not path or (root / path).is_dir() else 0o600
            if (root / path).exists():
                assert mode == kind, f"{path or 'the directory itself'} has the mode {mode:o}"
        assert len(during) > 10
    finally:
        os.umask(before)


def _folders(root: pathlib.Path, digits: str) -> list[pathlib.Path]:
    """The folders that the file of an object is in, outermost first."""
    namespace = next(path for path in root.iterdir() if path.is_dir())
    return [namespace, namespace / digits[:2], namespace / digits[:2] / digits[2:4]]


@pytest.mark.anyio
@pytest.mark.parametrize("dangling", [True, False])
async def test_a_link_in_the_place_of_an_object_is_not_followed(
    tmp_path: pathlib.Path, dangling: bool
) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    async with Runtime(root) as runtime:
        things = runtime.namespace(Thing)
        await things.get_by_name("first").put(1)
        digits = str(things.id_from_name("victim"))
        folder = _folders(root, digits)[-1]
        folder.mkdir(parents=True, exist_ok=True)
        if not dangling:
            outside.write_bytes(b"precious")
        (folder / f"{digits}.sqlite").symlink_to(outside)
        with pytest.raises(DurableStorageError):
            await things.get_by_name("victim").put(2)
    assert outside.exists() == (not dangling)
    if not dangling:
        assert outside.read_bytes() == b"precious"


@pytest.mark.anyio
@pytest.mark.parametrize("depth", [0, 1, 2])
async def test_a_link_in_the_place_of_a_folder_is_not_followed(
    tmp_path: pathlib.Path, depth: int
) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    outside.mkdir()
    async with Runtime(root) as runtime:
        things = runtime.namespace(Thing)
        await things.get_by_name("first").put(1)
        folders = _folders(root, str(things.id_from_name("victim")))
        namespace = folders[0]
        if depth == 0:
            namespace.rename(tmp_path / "moved")
        else:
            folders[depth - 1].mkdir(exist_ok=True, parents=True)
        assert not folders[depth].exists(), "another object has this folder"
        folders[depth].symlink_to(outside)
        with pytest.raises(DurableStorageError):
            await things.get_by_name("victim").put(2)
        if depth == 0:
            namespace.unlink()
            (tmp_path / "moved").rename(namespace)
    assert list(outside.iterdir()) == []


@pytest.mark.anyio
async def test_links_in_the_place_of_the_files_beside_an_object_are_not_written_through(
    tmp_path: pathlib.Path,
) -> None:
    root = tmp_path / "data"
    async with Runtime(root) as runtime:
        things = runtime.namespace(Thing)
        await things.get_by_name("first").put(1)
        digits = str(things.id_from_name("victim"))
        folder = _folders(root, digits)[-1]
        folder.mkdir(parents=True, exist_ok=True)
        outside = tmp_path / "outside"
        outside.mkdir()
        (folder / f"{digits}.sqlite-history").symlink_to(outside)
        precious = tmp_path / "precious"
        precious.write_bytes(b"precious")
        (folder / f"{digits}.sqlite-wal").symlink_to(precious)
        try:
            await things.get_by_name("victim").put(2)
            await evict_durable_object(things.get_by_name("victim"))
        except DurableStorageError:
            pass
    assert precious.read_bytes() == b"precious"
    assert list(outside.iterdir()) == []


@pytest.mark.anyio
async def test_a_link_in_the_place_of_the_registry_is_not_followed(tmp_path: pathlib.Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    root.mkdir(mode=0o700)
    (root / "registry.sqlite").symlink_to(outside)
    with pytest.raises(DurableStorageError):
        async with Runtime(root):
            pass
    assert not outside.exists()
