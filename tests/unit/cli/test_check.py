from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from .rig import Shell, object_file, write_lines


def problems(shell: Shell, data: Path) -> list[str]:
    result = shell("check", data, "--json")
    found = [each["what"] for each in result.data["problems"]]
    assert result.code == (1 if found else 0)
    return found


def test_a_sound_directory_has_no_problems(shell: Shell, data: Path) -> None:
    write_lines(data, "one", "two")
    assert problems(shell, data) == []
    assert "Sound: 1 object," in shell("check", data).out
    assert shell("check", data, "Counter").code == 0
    assert shell("check", data, "Nothing").code == 1


def test_a_damaged_page_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, *("text" * 200 for _ in range(20)))
    path = object_file(data)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 4096)
        file.write(b"\xff" * 4096)
    assert problems(shell, data)


def test_a_file_that_is_no_database_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    object_file(data).write_bytes(b"text" * 4096)
    assert "not a database" in " ".join(problems(shell, data))
    assert shell("show", data, "Counter", "a").code == 1


def test_a_missing_file_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    os.unlink(object_file(data))
    assert "missing" in problems(shell, data)[0]
    assert shell("show", data, "Counter", "a").code == 1


def test_a_row_that_refers_to_nothing_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    connection = sqlite3.connect(object_file(data))
    connection.execute("CREATE TABLE child(line REFERENCES line(id))")
    connection.execute("INSERT INTO child VALUES (99)")
    connection.commit()
    connection.close()
    assert any("child" in each for each in problems(shell, data))


def test_a_value_that_cannot_be_decoded_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    connection = sqlite3.connect(object_file(data))
    connection.execute("UPDATE _cf_KV SET value = x'c1'")
    connection.commit()
    connection.close()
    assert any("newest" in each for each in problems(shell, data))


def test_a_damaged_log_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    (segment,) = object_file(data).parent.glob("*-history/log/*")
    content = bytearray(segment.read_bytes())
    content[-3] ^= 1
    segment.write_bytes(content)
    assert problems(shell, data)


def test_an_alarm_that_the_registry_lacks_is_found(shell: Shell, data: Path) -> None:
    from durable_storage import sync

    from .rig import Counter
    from .test_looking import WHEN

    with sync.Runtime(data) as runtime:
        runtime.namespace(Counter).get_by_name("a").remind(WHEN)
    connection = sqlite3.connect(data / "registry.sqlite")
    connection.execute("DELETE FROM alarm")
    connection.commit()
    connection.close()
    assert any("alarm" in each for each in problems(shell, data))


def test_a_damaged_registry_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    (data / "registry.sqlite").write_bytes(b"text" * 4096)
    result = shell("check", data)
    assert result.code == 1
    assert "registry" in result.err


def test_a_folder_of_no_namespace_is_found(shell: Shell, data: Path) -> None:
    write_lines(data, "one")
    (data / "Stranger").mkdir()
    assert problems(shell, data) == ["the folder 'Stranger' belongs to no namespace"]


@pytest.mark.parametrize("command", ["ls", "check"])
def test_an_empty_directory_of_a_runtime_is_sound(shell: Shell, data: Path, command: str) -> None:
    write_lines(data)
    assert shell(command, data).code == 0
