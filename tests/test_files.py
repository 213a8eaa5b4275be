"""Files are read whatever their encoding, written whole or not at all, and held by one process."""

import codecs
import errno
import json
import os
import subprocess
import sys

import pytest

from scalesim import files
from scalesim.errors import InvalidInput, Unreachable


@pytest.mark.parametrize(
    "content",
    [
        "größe 1".encode(),
        codecs.BOM_UTF8 + "größe 1".encode(),
        "größe 1".encode("utf-16"),
        "größe 1".encode("utf-32"),
        "größe 1, plain text on and on".encode("utf-16-be"),
    ],
)
def test_text_of_any_mark(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert files.read_text(tmp_path / "a").startswith("größe 1")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"caf\xe9", "line 1 holds the byte 0xe9"), (b"a\nb\xff", "line 2"), (b"a\0b", "zero bytes")],
)
def test_what_is_no_text_is_named(tmp_path, content, says):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidInput, match=says):
        files.read_text(tmp_path / "a", "law")


def test_pipes_devices_folders_and_giants_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InvalidInput, match="a pipe or a device"):
            files.read_bytes(path)
    with pytest.raises(InvalidInput, match="a pipe that nobody reads"):
        files.write_whole(tmp_path / "pipe", "x")
    with pytest.raises(InvalidInput, match="is a folder"):
        files.read_bytes(tmp_path)
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        files.read_bytes(tmp_path / "absent")
    (tmp_path / "big").write_bytes(b"12345")
    with pytest.raises(InvalidInput, match="holds 5 bytes; at most 4"):
        files.read_bytes(tmp_path / "big", most=4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": 1e999}', "beyond what can be computed"),
        ('{"a": 1' + "0" * 400 + "}", "beyond what can be computed"),
        ('{"a": 1' + "0" * 5000 + "}", "beyond what can be computed"),
        ('{"a": 1, "a": 2}', "gives 'a' twice"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_json_is_plain(text, says):
    with pytest.raises(InvalidInput, match=says):
        files.json_text(text, "x.json")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a" / "law.json"
    files.write_json(path, {"x": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unreachable, match="the disk is full"):
        files.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in path.parent.iterdir()] == ["law.json"]
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"x": float("nan")})


def test_where_nothing_can_be_written_is_known_before(tmp_path):
    files.check_writable(tmp_path / "new" / "folder" / "x")
    assert (tmp_path / "new" / "folder").is_dir()
    with pytest.raises(InvalidInput, match="is a folder"):
        files.check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        files.check_writable(tmp_path / "file" / "x")


def test_a_folder_is_held_by_one_process(tmp_path):
    program = (
        "import sys; from scalesim.files import locked\n"
        "try:\n"
        "    with locked(sys.argv[1], 'folder'): print('mine')\n"
        "except RuntimeError as error: print(error)"
    )

    def other():
        run = [sys.executable, "-c", program, str(tmp_path / "out")]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout

    with files.locked(tmp_path / "out"):
        assert "in use by another process" in other()
    assert other() == "mine\n"


@pytest.mark.parametrize("kept", [True, False])
def test_a_library_s_own_stack_is_held_back(kept, capfd):
    with files._held_back() as printed:
        os.write(2, b"thread 'async-executor-0' panicked\n")
        if not kept:
            printed.clear()
    assert ("panicked" in capfd.readouterr().err) == kept
