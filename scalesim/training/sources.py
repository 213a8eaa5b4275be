"""Text to train on as people keep it: what is known is read, the rest refused; what is left out is said."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import decoded, format_of, json_text, read_bytes, read_parquet

__all__ = ["Documents", "Text", "Tokens", "files_of", "read_source"]

Documents = Literal["auto", "blank", "line", "whole"]

MOST_BYTES = 1 << 34
"""Of one file of text: 16 GiB."""
_TEXT_FIELDS = ("text", "content", "document", "body", "raw_content", "story", "article", "completion")
_PLAIN = frozenset({".py", ".txt", ".rst", ".md", ".json", ".toml", ".csv", ".html", ".c", ".h", ""})
_PACKED = (".jsonl", ".ndjson", ".parquet", ".pq", ".gz")


class Text(NamedTuple):
    """Documents, and sentences on what was done to read them; `whole` where it is one text without ends."""

    documents: list[bytes]
    notes: list[str]
    whole: bool = False


class Tokens(NamedTuple):
    """Token numbers, (n,), and sentences on how they were read."""

    numbers: np.ndarray
    notes: list[str]


def read_source(path: Path, documents: Documents = "auto") -> Text | Tokens:
    """Return what a file or a folder holds.

    Raises:
        InvalidInput: it cannot be read, is empty, or is neither text nor token numbers.
    """
    if path.is_dir():
        return _folder(path, documents)
    name = f"corpus {str(path)!r}"
    ending = path.suffix.lower()
    if ending == ".npy":
        return Tokens(_array(path, name), [])
    data = read_bytes(path, "corpus", MOST_BYTES)
    if ending == ".bin" and not _is_text(data):
        return _token_file(data, name)
    return _text_of(data, path.name.lower(), name, documents)


def _is_text(data: bytes) -> bool:
    try:
        decoded(data[:4096].rsplit(b"\n", 1)[0] if len(data) > 4096 else data, "")
    except InvalidInput:
        return False
    return True


def _text_of(data: bytes, file: str, name: str, documents: Documents) -> Text:
    """Return the documents of a file's bytes; `file` is its name without its folder."""
    if not data:
        raise InvalidInput(f"{name} is empty.")
    if data.startswith(b"\x1f\x8b"):
        inside = _unpacked(data, name)
        found = _text_of(inside, file.removesuffix(".gz"), f"{name}, unpacked,", documents)
        return found._replace(notes=["It was unpacked (gzip).", *found.notes])
    if data.startswith(b"PAR1") or file.endswith((".parquet", ".pq")):
        return Text(_parquet(data, name), [])
    content, encoding = decoded(data, name, latin=True)
    plain = encoding in ("utf-8", "utf-8-sig")
    notes = [] if plain else [f"It was read as {encoding} and is trained on as UTF-8."]
    if "\r" in content:
        content = content.replace("\r\n", "\n").replace("\r", "\n")
        notes.append("Its line ends were made plain (LF).")
    if not content.strip():
        raise InvalidInput(f"{name} is empty: it holds white space alone.")
    if file.endswith((".jsonl", ".ndjson")):
        rows = [
            json_text(line, f"{name}, line {i},", missing=True)
            for i, line in enumerate(content.splitlines(), 1)
            if line.strip()
        ]
        return Text(_records(rows, name), notes)
    if file.endswith(".json") and documents == "auto" and content.lstrip()[:1] == "[":
        rows = json_text(content, name, missing=True)
        notes.append("Each entry of its list is a document; --documents whole takes the file as text.")
        return Text(_records(rows, name), notes)
    return _separated(content, name, documents, notes)


def _separated(content: str, name: str, documents: Documents, notes: list[str]) -> Text:
    """Return the documents of plain text, as blank lines or lines separate them."""
    if documents == "line":
        return Text([line.encode() for line in content.split("\n")], notes)
    if documents == "whole":
        return Text([content.encode()], notes, whole=True)
    parts = [part for part in content.encode().split(b"\n\n") if part.strip()]
    if documents == "auto" and len(parts) < 2:
        lines = content.count("\n")
        advice = "; --documents line takes each line for one" if lines > 1 else ""
        notes.append(
            f"It has no blank lines, which separate documents: it is one text, split at its end{advice}."
        )
        return Text([content.encode()], notes, whole=True)
    return Text(parts, notes)


def _unpacked(data: bytes, name: str) -> bytes:
    """Return what gzip data hold, members one after another, within the bound on sizes."""
    parts: list[bytes] = []
    total = 0
    while data:
        stream = zlib.decompressobj(wbits=31)
        try:
            parts.append(stream.decompress(data, MOST_BYTES - total))
        except zlib.error as error:
            raise InvalidInput(f"{name} cannot be unpacked: {error}.") from None
        total += len(parts[-1])
        if total >= MOST_BYTES:
            raise InvalidInput(f"{name} holds more than {MOST_BYTES:,} bytes.")
        if not stream.eof:
            raise InvalidInput(f"{name} cannot be unpacked: it is cut short.")
        data = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _records(rows: Sequence[Any], name: str) -> list[bytes]:
    """Return the texts of JSON records."""
    if not rows:
        raise InvalidInput(f"{name} holds no records.")
    if all(isinstance(row, str) for row in rows):
        return [row.encode("utf-8", "replace") for row in rows]
    keys = [key for key in _TEXT_FIELDS if all(isinstance(row, dict) and key in row for row in rows)]
    if not keys:
        first = rows[0]
        held = ", ".join(list(first)[:8]) if isinstance(first, dict) else json.dumps(first)[:40]
        raise InvalidInput(
            f"{name} must hold records with a text ({', '.join(_TEXT_FIELDS[:3])}, ...), but holds {held}."
        )
    bad = next((row[keys[0]] for row in rows if not isinstance(row[keys[0]], str)), None)
    if bad is not None:
        raise InvalidInput(f"{name}: {keys[0]} must be a text, but is {json.dumps(bad)[:40]}.")
    return [row[keys[0]].encode("utf-8", "replace") for row in rows]


def _parquet(data: bytes, name: str) -> list[bytes]:
    import polars as pl

    frame = read_parquet(data, name)
    texts = [c for c in frame.columns if frame[c].dtype == pl.String]
    named = [c for c in texts if c in _TEXT_FIELDS] or (texts if len(texts) == 1 else [])
    if not named:
        raise InvalidInput(
            f"{name} must have a column of texts named {' or '.join(_TEXT_FIELDS[:3])}; it has "
            f"{', '.join(frame.columns[:12])}."
        )
    return [text.encode("utf-8", "replace") for text in frame[named[0]].drop_nulls().to_list()]


def _array(path: Path, name: str) -> np.ndarray:
    """Return a NumPy array of token numbers, not read before it is used."""
    if not path.is_file():
        raise InvalidInput(f"{name} is a folder, a pipe or a device; a file would do.")
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY":
            raise ValueError("it is cut short" if len(start) < 6 else "it does not begin as one")
        tokens = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy reads headers as Python, and fails as Python does
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InvalidInput(f"{name} is not a NumPy array that can be read: {reason}.") from None
    return checked_tokens(tokens, name)


def checked_tokens(tokens: np.ndarray, name: str) -> np.ndarray:
    """Refuse what is no array of token numbers."""
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer) or len(tokens) < 2:
        raise InvalidInput(
            f"{name} must be a one-dimensional array of whole token numbers, two or more, but is "
            f"{tokens.dtype} of shape {tokens.shape}."
        )
    if tokens.min() < 0:
        raise InvalidInput(f"{name} holds the negative token number {tokens.min()}.")
    if tokens.max() >= _MOST_TOKENS:
        raise InvalidInput(f"{name} holds the token number {tokens.max()}, beyond {_MOST_TOKENS:,}.")
    return tokens


_MOST_TOKENS = 1 << 24


def _token_file(data: bytes, name: str) -> Tokens:
    """Return token numbers as nanoGPT's and llm.c's preparation writes them: 16 or 32 bits each, no header.

    Numbers of 64 bits (every other word of 32 is 0), and of 16 with the high byte first (read otherwise they
    are larger by far), are read as such; real numbers are none.
    (llm.c's begins with 256 words, the first of them 20240520.)
    """
    kind = format_of(data)
    if kind is not None:
        raise InvalidInput(f"{name} is {kind}, neither text nor token numbers.")
    if int.from_bytes(data[:4], "little") in (20240520, 20240801) and len(data) > 1024:
        wide = int.from_bytes(data[:4], "little") == 20240801
        data = data[1024:]
    else:
        pairs = np.frombuffer(data[: len(data) // 4 * 4][: 1 << 20], "<u2")
        wide = len(pairs) > 0 and bool(np.mean(pairs[1::2] < 16) > 0.99) and not bool(np.all(pairs[::2] < 16))
    kind = "<u4" if wide else "<u2"
    if len(data) % np.dtype(kind).itemsize:
        raise InvalidInput(f"{name} is binary data of {len(data):,} bytes: neither text nor whole tokens.")
    if len(data) >= _ENOUGH:
        kind = _likelier(data, kind, name)
    said = f"It was read as token numbers of {8 * np.dtype(kind).itemsize} bits"
    said += ", the high byte first." if kind.startswith(">") else "."
    return Tokens(checked_tokens(np.frombuffer(data, kind), name), [said])


_ENOUGH = 1000
"""Bytes by which numbers tell how they are written."""


def _likelier(data: bytes, kind: str, name: str) -> str:
    """Return how token numbers are written that look to be of a kind, but may be of another.

    Raises:
        InvalidInput: they are real numbers.
    """
    first = data[: 1 << 20]
    real = np.abs(np.frombuffer(first[: len(first) // 4 * 4], "<f4"))
    if np.all((real == 0) | ((real > 1e-6) & (real < 1e6))) and np.mean(real > 0) > 0.5:
        raise InvalidInput(f"{name} holds real numbers (float32), no token numbers.")
    numbers = np.frombuffer(first, kind)
    if kind == "<u4":
        return "<u8" if len(data) % 8 == 0 and numbers[::2].any() and not numbers[1::2].any() else kind
    return ">u2" if 1.2 * float(numbers.byteswap().max()) < float(numbers.max()) else kind


def _folder(root: Path, documents: Documents) -> Text:
    """Return the files under a folder in the order of their names; installed packages are not part of it.

    A file of text is a document, records of JSON Lines and Parquet one each.
    """
    found: list[bytes] = []
    out: dict[str, list[str]] = {}
    recoded = 0
    for path in sorted(root.rglob("*")):
        if not path.is_file() or "site-packages" in path.parts:
            continue
        ending = path.suffix.lower()
        if ending not in _PLAIN and not ending.endswith(_PACKED):
            out.setdefault(f"{ending or 'no'} files", []).append(path.name)
            continue
        try:
            data = read_bytes(path, "corpus", MOST_BYTES)
            if not data.strip():
                out.setdefault("empty", []).append(path.name)
            elif ending in _PLAIN:
                content, encoding = decoded(data, path.name, latin=True)
                recoded += encoding not in ("utf-8", "utf-8-sig")
                found.append(content.replace("\r\n", "\n").replace("\r", "\n").encode())
            else:
                inside = _text_of(data, path.name.lower(), path.name, "whole")
                found += inside.documents
        except InvalidInput:
            out.setdefault("not text", []).append(path.name)
    notes = [f"{recoded} files were read as UTF-16 or Western European (cp1252)."] if recoded else []
    if out:
        parts = [
            f"{len(names)} {'that are ' if why in ('empty', 'not text') else ''}{why} ({', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''})"
            for why, names in out.items()
        ]
        total = sum(map(len, out.values()))
        notes.append(f"{total} files were left out: {'; '.join(parts)}.")
    if not found:
        raise InvalidInput(f"corpus {str(root)!r} holds no text. {' '.join(notes)}".rstrip())
    return Text(found, notes)


def files_of(root: Path, suffix: str) -> Iterator[bytes]:
    """Yield the files of one ending under a folder, as they are, in the order of their names."""
    for path in sorted(root.rglob(f"*{suffix}")):
        if path.suffix == suffix and path.is_file() and "site-packages" not in path.parts:
            data = path.read_bytes()
            if b"\0" not in data:  # not text
                yield data
