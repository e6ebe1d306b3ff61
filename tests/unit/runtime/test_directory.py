"""The data directory: one owner, safe folder names, no symbolic links."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from durable_storage.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    DatabaseFileError,
    RuntimeInUseError,
)
from durable_storage.runtime.directory import DataDirectory, namespace_folder

ID = "ab" * 32


def test_a_directory_and_its_missing_parents_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "b")
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(directory.path, "owner.lock")).st_mode) == 0o600
    directory.release()


def test_a_relative_path_keeps_its_meaning_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = DataDirectory("data")
    assert directory.path == str(tmp_path / "data")
    directory.release()


def test_a_second_runtime_of_this_process_is_refused_with_pid_and_directory(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with pytest.raises(RuntimeInUseError) as caught:
        DataDirectory(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert f"another runtime of this process (pid {os.getpid()})" in str(caught.value)
    directory.release()
    directory.release()
    assert directory.released
    DataDirectory(tmp_path).release()


def test_another_name_of_the_same_directory_is_the_same_directory(tmp_path: Path) -> None:
    real = tmp_path / "real"
    directory = DataDirectory(real)
    (tmp_path / "alias").symlink_to(real)
    with pytest.raises(RuntimeInUseError):
        DataDirectory(tmp_path / "alias")
    directory.release()


def _child(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


OWN = (
    "import sys; from durable_storage.runtime.directory import DataDirectory\n"
    "directory = DataDirectory(sys.argv[1]); print('owned', flush=True); sys.stdin.read()"
)


def test_another_process_is_named_and_its_death_frees_the_directory(tmp_path: Path) -> None:
    with _child(OWN, tmp_path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "owned\n"
        with pytest.raises(RuntimeInUseError, match=rf"process with pid {child.pid};"):
            DataDirectory(tmp_path)
        child.kill()
        child.wait()
    DataDirectory(tmp_path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_keeps_nor_frees_the_directory(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from durable_storage.runtime.directory import DataDirectory\n"
        "directory = DataDirectory(sys.argv[1])\n"
        "ready, tell = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    directory.release(); os.write(tell, b'x'); sys.stdin.read(); os._exit(0)\n"
        "os.read(ready, 1); print('owned', flush=True); signal.pause()"
    )
    with _child(code, tmp_path) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "owned\n"
        with pytest.raises(RuntimeInUseError):
            DataDirectory(tmp_path)
        child.kill()
        child.wait()  # the grandchild lives on, waiting for the end of its input
        DataDirectory(tmp_path).release()
        child.stdin.close()


def test_a_temporary_directory_goes_with_its_owner() -> None:
    directory = DataDirectory()
    assert directory.temporary
    assert os.path.isdir(directory.path)
    directory.release()
    assert not os.path.exists(directory.path)


@pytest.mark.parametrize(
    ("path", "error"), [(5, ArgumentTypeError), (b"x", ArgumentTypeError), ("", ArgumentValueError)]
)
def test_what_is_no_path_is_refused(path: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        DataDirectory(path)  # type: ignore[arg-type]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseFileError, match="cannot be made"):
        DataDirectory(tmp_path / "file")
    with pytest.raises(DatabaseFileError, match="cannot be made"):
        DataDirectory(tmp_path / "file" / "below")


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    data = tmp_path / "data"
    data.mkdir()
    (data / "owner.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(DatabaseFileError):
        DataDirectory(data)
    assert (tmp_path / "victim").read_text() == "keep"


@pytest.mark.parametrize(
    "name",
    [
        "Counter",
        "counter",
        "größe 🎉",
        "../../etc",
        "CON",
        "a/b\\c:d",
        ".",
        "",
        "x" * 300,
        "\0",
        "a\nb",
        "\ud800",
    ],
)
def test_every_class_name_gives_a_safe_folder_name(name: str) -> None:
    folder = namespace_folder(name)
    assert set(folder) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert len(folder) < 60
    assert folder == namespace_folder(name)


def test_folder_names_differ_even_where_case_is_ignored() -> None:
    names = ["Counter", "counter", "COUNTER", "a.b", "a_b", "a b"]
    assert len({namespace_folder(name).lower() for name in names}) == len(names)


def test_an_object_lies_two_levels_below_its_namespace(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    path = directory.prepare("Counter-1", ID)
    assert path == str(tmp_path / "Counter-1" / "ab" / "ab" / f"{ID}.sqlite")
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert not os.path.exists(path)
    assert directory.prepare("Counter-1", ID) == path
    directory.release()


@pytest.mark.parametrize(
    "wrong", ["", "ab", "AB" * 32, "zz" * 32, "../" + "a" * 61, "a" * 65, "a" * 64 + "\n"]
)
def test_what_is_no_object_id_never_becomes_a_path(tmp_path: Path, wrong: str) -> None:
    directory = DataDirectory(tmp_path)
    with pytest.raises(ArgumentValueError):
        directory.object_path("Counter-1", wrong)
    directory.release()


def test_nothing_is_created_through_a_symbolic_link(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    outside = tmp_path / "outside"
    outside.mkdir()
    for link in ("Counter-1", "Other-1/ab", "Third-1/ab/ab"):
        place = tmp_path / "data" / link
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(outside)
        with pytest.raises(DatabaseFileError, match="in the way"):
            directory.prepare(link.split("/")[0], ID)
    file = Path(directory.prepare("Fourth-1", ID))
    file.symlink_to(outside / "victim.sqlite")
    with pytest.raises(DatabaseFileError, match="symbolic link"):
        directory.prepare("Fourth-1", ID)
    assert list(outside.iterdir()) == []
    directory.release()


def test_new_folders_are_synced_in_their_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDirectory(tmp_path)
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    directory.prepare("Counter-1", ID)
    assert directory.unsynced
    directory.sync_folders()
    assert not directory.unsynced
    top = str(tmp_path)
    assert synced == [top, f"{top}/Counter-1", f"{top}/Counter-1/ab"]
    directory.sync_folders()
    assert len(synced) == 3
    directory.release()


def test_a_failed_sync_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = DataDirectory(tmp_path)
    directory.prepare("Counter-1", ID)

    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            directory.sync_folders()
    assert directory.unsynced
    directory.sync_folders()
    assert not directory.unsynced
    directory.release()


def test_a_folder_made_during_a_sync_is_not_taken_for_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDirectory(tmp_path)
    directory.prepare("Counter-1", ID)
    real = os.fsync
    made: list[str] = []

    def fsync(descriptor: int) -> None:
        real(descriptor)
        if not made:
            made.append(directory.prepare("Other-1", ID))

    monkeypatch.setattr(os, "fsync", fsync)
    directory.sync_folders()
    assert directory.unsynced
    directory.sync_folders()
    assert not directory.unsynced
    directory.release()


def test_everybody_waits_for_a_sync_that_another_thread_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDirectory(tmp_path)
    directory.prepare("Counter-1", ID)
    inside, proceed = threading.Event(), threading.Event()
    real = os.fsync
    order: list[str] = []

    def fsync(descriptor: int) -> None:
        inside.set()
        assert proceed.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    def sync(name: str) -> None:
        directory.sync_folders()
        order.append(name)

    first = threading.Thread(target=sync, args=("first",))
    first.start()
    assert inside.wait(10)
    second = threading.Thread(target=sync, args=("second",))
    second.start()
    assert order == []
    assert directory.unsynced
    proceed.set()
    first.join()
    second.join()
    assert sorted(order) == ["first", "second"]
    assert not directory.unsynced
    directory.release()


def test_objects_are_found_in_order_of_id_and_nothing_else_is(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    ids = [*sorted(f"{n:02x}" * 32 for n in range(20)), "ff00" + "1" * 60]
    for object_id in reversed(ids):
        Path(directory.prepare("Counter-1", object_id)).write_bytes(b"")
    folder = tmp_path / "Counter-1" / "00" / "00"
    (folder / ("00" * 32 + ".sqlite-wal")).write_bytes(b"")
    (folder / ("01" * 32 + ".sqlite")).write_bytes(b"")  # in a folder that is not its own
    (folder / ("00" * 31 + "aa.sqlite")).symlink_to(folder / ("00" * 32 + ".sqlite"))
    (tmp_path / "Counter-1" / "note.txt").write_text("")
    assert sorted(directory.object_ids("Counter-1")) == list(directory.object_ids("Counter-1"))
    assert list(directory.object_ids("Counter-1")) == sorted(ids)
    assert list(directory.object_ids("Missing-1")) == []
    directory.release()


def test_removing_a_namespace_can_be_repeated_and_follows_no_link(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "data")
    path = directory.prepare("Counter-1", ID)
    Path(path).write_bytes(b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("")
    (Path(path).parent / "link").symlink_to(outside)
    directory.remove_namespace("Counter-1")
    directory.remove_namespace("Counter-1")
    assert not (tmp_path / "data" / "Counter-1").exists()
    (tmp_path / "data" / "Counter-1").symlink_to(outside)
    directory.remove_namespace("Counter-1")
    assert not os.path.lexists(tmp_path / "data" / "Counter-1")
    assert (outside / "keep").exists()
    directory.sync_folders()  # what was made in it needs no sync any more
    directory.release()
