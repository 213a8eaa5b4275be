"""People's own files, read and written: encodings, sizes, what is no file at all; whole or not written."""

from __future__ import annotations

import codecs
import errno
import io
import json
import math
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesim.errors import InvalidInput, Unreachable

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "MOST_BYTES",
    "check_writable",
    "decoded",
    "format_of",
    "json_text",
    "kind_of",
    "locked",
    "read_bytes",
    "read_json",
    "read_parquet",
    "read_text",
    "read_toml",
    "write_json",
    "write_whole",
]

MOST_BYTES = 1 << 28
"""No table, law, grid or description of hardware is larger: 256 MiB."""

_MAGIC = {
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive (an Excel workbook is one)",
    b"PAR1": "a Parquet table",
    b"%PDF": "a PDF",
    b"\x93NUMPY": "a NumPy array",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"\x7fELF": "a program",
    b"ARROW1": "an Arrow table",
    b"\xd0\xcf\x11\xe0": "an old Office file",
}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_CONTROLS = [bytes([b]) for b in (*range(9), *range(14, 32), 127)]


def format_of(data: bytes) -> str | None:
    """Return what the first bytes of a file say it is, or None where they are nobody's mark.

    >>> format_of(b"%PDF-1.7"), format_of(b"n_params,loss")
    ('a PDF', None)
    """
    return next((name for mark, name in _MAGIC.items() if data.startswith(mark)), None)


def decoded(data: bytes, name: str, *, latin: bool = False) -> tuple[str, str]:
    """Return text of any common encoding, and the encoding's name.

    A byte-order mark tells UTF-8, UTF-16 and UTF-32; UTF-16 without one is known by its zero bytes; else it
    is UTF-8, or with `latin` Windows' Western one (cp1252, which holds Latin-1's letters).

    Raises:
        InvalidInput: a known binary format, other binary data, or another encoding; `name` is the file.

    >>> decoded("größe".encode("utf-16"), "runs.csv")
    ('größe', 'utf-16')
    """
    kind = format_of(data)
    if kind is not None:
        raise InvalidInput(f"{name} is {kind}, not text.")
    encoding = next((encoding for bom, encoding in _BOMS if data.startswith(bom)), None)
    if encoding is None and b"\0" in data[:4096] and len(data) % 2 == 0:
        even, odd = data[0:4096:2].count(0), data[1:4096:2].count(0)
        half = len(data[:4096]) // 2
        if max(even, odd) > 0.7 * half and min(even, odd) < 0.1 * half:
            encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if not latin or encoding is not None or b"\0" in data:
            line = data.count(b"\n", 0, error.start) + 1
            raise InvalidInput(
                f"{name} is not {(encoding or 'utf-8').upper()} text: line {line} holds the byte "
                f"0x{data[error.start] if error.start < len(data) else 0:02x}. Save it as UTF-8."
            ) from None
        if sum(data[:65536].count(byte) for byte in _CONTROLS) > 0.005 * len(data[:65536]):
            raise InvalidInput(f"{name} is binary data, not text.") from None
        text, encoding = data.decode("cp1252", errors="replace"), "cp1252"
    if "\0" in text:
        raise InvalidInput(f"{name} is binary data, not text: it holds zero bytes.")
    odd = sum(text.count(byte.decode(), 0, 65536) for byte in _CONTROLS)
    if odd > max(8, 0.01 * len(text[:65536])):
        raise InvalidInput(f"{name} is binary data, not text: it holds control characters.")
    return text, encoding or "utf-8"


def kind_of(path: str | Path) -> str | None:
    """Return "file", "folder" or "other", or None where there is nothing, or no path has such a name.

    >>> kind_of("/"), kind_of("x" * 9999)
    ('folder', None)
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # too long, or with a zero byte
        return None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def read_bytes(path: str | Path, what: str = "file", most: int = MOST_BYTES) -> bytes:
    """Return what a regular file holds.

    Raises:
        InvalidInput: no such file, a folder, a pipe or a device (which might never end), one that cannot be
            read, or one larger than `most` bytes. The message begins with `what` and the path.
    """
    name = f"{what} {str(path)!r}"
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(path, flags)  # a pipe without a writer would wait for ever
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
                raise InvalidInput(f"{name} is {kind}; a file would do.")
            if status.st_size > most:
                raise InvalidInput(f"{name} holds {status.st_size:,} bytes; at most {most:,} would do.")
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = file.read(most + 1)
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInput(f"{name} cannot be read: {reason}.") from None
    if len(data) > most:
        raise InvalidInput(f"{name} holds more than {most:,} bytes.")
    return data


def read_text(path: str | Path, what: str = "file", most: int = MOST_BYTES) -> str:
    """Return the text of a file; errors are those of `read_bytes` and `decoded`."""
    return decoded(read_bytes(path, what, most), f"{what} {str(path)!r}")[0]


def json_text(text: str, name: str, *, missing: bool = False) -> Any:
    """Return what JSON text holds; NaN and infinity are refused, or with `missing` read as None.

    Raises:
        InvalidInput: not JSON, a number that no float holds, a key given twice, or nested too deep.

    >>> json_text('{"a": [1, 2.5]}', "law.json")
    {'a': [1, 2.5]}
    """

    def number(kind: type) -> Any:
        def read(digits: str) -> Any:
            try:
                value = kind(digits)
                if math.isfinite(float(value)):
                    return value
            except (ValueError, OverflowError):
                pass
            if missing:
                return None
            raise InvalidInput(
                f"{name} holds the number {digits[:30]}, which is beyond what can be computed."
            )

        return read

    def constant(word: str) -> Any:
        if missing:
            return None
        raise InvalidInput(f"{name} holds {word}, which is no number.")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        held = dict(pairs)
        if len(held) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidInput(f"{name} gives {twice!r} twice.")
        return held

    try:
        return json.loads(
            text,
            parse_float=number(float),
            parse_int=number(int),
            parse_constant=constant,
            object_pairs_hook=once,
        )
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"{name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise InvalidInput(f"{name} is not JSON that can be read: it is nested too deep.") from None


def read_json(path: str | Path, what: str = "file", *, missing: bool = False) -> Any:
    """Return what a JSON file holds; errors are those of `read_text` and `json_text`."""
    return json_text(read_text(path, what), f"{what} {str(path)!r}", missing=missing)


def read_toml(path: str | Path, what: str = "file") -> dict[str, Any]:
    """Return what a TOML file holds; errors are those of `read_text`, and what is no TOML."""
    text = read_text(path, what)
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InvalidInput(f"{what} {str(path)!r} is no TOML: {error}.") from None


def read_parquet(data: bytes, name: str) -> pl.DataFrame:
    """Return the table of a Parquet file's bytes; `name` is the file.

    Polars' threads print a stack of their own for damage of some kinds, before the error comes: that is held
    back, and what was printed besides is printed afterwards.

    Raises:
        InvalidInput: it cannot be read.
    """
    import polars as pl

    with _held_back() as printed:
        try:
            frame = pl.read_parquet(io.BytesIO(data))
        except BaseException as error:  # polars raises a type of its own for every way a file can be wrong
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            printed.clear()
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InvalidInput(f"{name} cannot be read: {reason}.") from None
    return frame


@contextmanager
def _held_back() -> Iterator[list[bool]]:
    """Hold back what the process prints to standard error; it is lost where the list is emptied."""
    keep = [True]
    try:
        real = os.dup(2)
    except OSError:  # standard error is closed
        yield keep
        return
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield keep
            finally:
                os.dup2(real, 2)
                if keep:
                    held.seek(0)
                    os.write(2, held.read())
    finally:
        os.close(real)


def _told(error: OSError, what: str, path: str | Path) -> Exception:
    if error.errno == errno.ENXIO:
        return InvalidInput(f"{what} {str(path)!r} is a pipe that nobody reads.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unreachable(f"{what} {str(path)!r} cannot be written: the disk is full; nothing was replaced.")
    return InvalidInput(f"{what} {str(path)!r} cannot be written: {error.strerror or error}.")


def check_writable(path: str | Path, what: str = "file") -> None:
    """Refuse a path that cannot be written, before the work rather than after it; its folder is made.

    Raises:
        InvalidInput: it is a folder, or its folder cannot be made or written.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InvalidInput(f"{what} {str(path)!r} is a folder; a file's name would do.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise InvalidInput(f"{what} {str(path)!r} cannot be written: Permission denied.")
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"{what} {str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}."
        ) from None


def write_whole(path: str | Path, content: bytes | str, what: str = "file") -> None:
    """Write a file so that it is the old one or the new one: beside, flushed to the disk, then moved over.

    Text is written as UTF-8; folders are made. A device, such as /dev/stdout, is written as it is.

    Raises:
        InvalidInput: it cannot be written.
        Unreachable: the disk is full; the old file stays.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            if path.is_dir():
                raise InvalidInput(f"{what} {str(path)!r} is a folder; a file's name would do.")
            flags = os.O_WRONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody reads would wait for ever
            with os.fdopen(os.open(path, flags), "wb") as file:
                os.set_blocking(file.fileno(), True)
                file.write(data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _told(error, what, path) from None


def write_json(
    path: str | Path, value: Mapping[str, Any], what: str = "file", indent: int | None = 1
) -> None:
    """Write a JSON file whole; a NaN or infinity never leaves (it is a bug, and raises ValueError)."""
    write_whole(path, json.dumps(value, indent=indent, allow_nan=False) + "\n", what)


@contextmanager
def locked(folder: str | Path, what: str = "folder") -> Iterator[None]:
    """Hold a folder for this process alone; it is made if it is not there. The lock ends with the process.

    Raises:
        Unreachable: another process holds it.
        InvalidInput: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = None if os.name == "nt" else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _told(error, what, folder) from None
    if handle is None:  # Windows: no folder can be opened, nor locked
        yield
        return
    import fcntl

    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unreachable(
                f"{what} {str(folder)!r} is in use by another process. Wait for it, or give another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)
