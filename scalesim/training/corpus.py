"""Text to train on, as tokens: documents split for training and validation; a name, a size and a hash."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from scalesim.errors import InvalidInput, choose
from scalesim.files import kind_of
from scalesim.training.sources import Documents, Tokens, files_of, read_source

__all__ = ["Corpus", "from_documents", "load_corpus"]

_SEPARATOR = 0  # a byte that text does not hold
_PARTS = 1000  # documents are split by their hash into so many parts


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to train on and tokens to validate on; no document is in both.

    Attributes:
        name: where it came from.
        train: token numbers, (n,).
        validation: token numbers, (m,).
        vocab_size: token numbers are below it.
        n_documents: how many documents both hold.
        notes: what was done to read it, and what was left out, a sentence each.

    Losses of two corpora must not be compared: `hash` tells whether two are the same.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    vocab_size: int
    n_documents: int
    notes: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of all tokens, training first."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(part).astype("<u4").tobytes())
        return digest.hexdigest()[:16]

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self.train):,} tokens to train on, {len(self.validation):,} to validate on, "
            f"{self.n_documents:,} documents, hash {self.hash}"
        )


def load_corpus(
    source: str | Path = "stdlib", validation: float = 0.05, documents: Documents = "auto"
) -> Corpus:
    """Read a corpus: "stdlib", text, a folder of text, or token numbers.

    "stdlib" is the Python standard library's own sources on this machine, byte by byte: real text on every
    machine with no download. Text (UTF-8, UTF-16 or Western European, gzip or not; line ends are made plain)
    is documents a blank line apart; a text without blank lines is one, split at its end. In JSON Lines and
    Parquet a record's `text` is a document; in a folder a file is. Token numbers are a .npy array, or a .bin
    file of 16 or 32 bits each, split at its end. What is none of these is refused, and files of a folder
    that are left out are said in the result's `notes`.

    Args:
        source: what to read.
        validation: the part of documents kept for validation, chosen by each document's own hash.
        documents: what separates documents of plain text: "blank" lines, each "line", nothing ("whole"), or
            "auto": blank lines if there are any.

    Raises:
        InvalidInput: no such file, nothing to read in it, or a part that is not between 0 and 1.

    >>> corpus = load_corpus("stdlib")
    >>> corpus.vocab_size, len(corpus.train) > 5_000_000
    (256, True)
    """
    if isinstance(validation, bool) or not 0 < validation < 1:
        raise InvalidInput(f"validation must be between 0 and 1, but is {validation}.")
    choose("documents", documents, ("auto", "blank", "line", "whole"))
    if source == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        version = sysconfig.get_python_version()
        return from_documents(files_of(root, ".py"), validation, f"python {version} standard library")
    path, name = Path(source), str(source)
    if kind_of(path) is None:
        raise InvalidInput(f"corpus {name!r} is no file or folder (and not the name stdlib).")
    held = read_source(path, documents)
    if isinstance(held, Tokens):
        return _split(name, held.numbers, validation, int(held.numbers.max()) + 1, held.notes)
    if held.whole:
        return _whole(name, held.documents[0], validation, held.notes)
    try:
        found = from_documents(held.documents, validation, name)
    except InvalidInput:
        if documents != "auto":
            raise
        many = len(held.documents)
        few = f"Its {many} documents are too few or too alike to hold some out: it is split at its end."
        return _whole(name, b"\n\n".join(held.documents), validation, [*held.notes, few])
    return replace(found, notes=tuple(held.notes))


def _whole(name: str, text: bytes, validation: float, notes: list[str]) -> Corpus:
    numbers = np.frombuffer(text, np.uint8)
    if len(numbers) < 2:
        raise InvalidInput(f"corpus {name!r} holds {len(numbers)} bytes; give more text.")
    return _split(name, numbers, validation, 256, notes)


def _split(name: str, tokens: np.ndarray, validation: float, vocab_size: int, notes: list[str]) -> Corpus:
    cut = len(tokens) - max(1, round(len(tokens) * validation))
    if cut < 1:
        raise InvalidInput(f"corpus {name!r} holds {len(tokens)} tokens, which cannot be split.")
    return Corpus(name, tokens[:cut], tokens[cut:], vocab_size, 1, tuple(notes))


def from_documents(documents: Iterable[bytes], validation: float = 0.05, name: str = "documents") -> Corpus:
    """Make a byte-level corpus of documents; each ends with a zero byte, and copies are left out.

    >>> from_documents([b"one", b"two", b"three"], 0.5).n_documents
    3
    """
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    seen: set[bytes] = set()
    for document in documents:
        digest = hashlib.sha256(document).digest()
        if not document.strip() or digest in seen:
            continue
        seen.add(digest)
        held_out = int.from_bytes(digest[:4], "big") % _PARTS < validation * _PARTS
        parts[held_out].append(document + bytes([_SEPARATOR]))
    train, held = (np.frombuffer(b"".join(parts[k]), np.uint8) for k in (False, True))
    if not len(train) or not len(held):
        raise InvalidInput(
            f"corpus {name!r} has {len(parts[False])} documents to train on and {len(parts[True])} to "
            "validate on; both need at least one: give more text, or another part for validation."
        )
    return Corpus(name, train, held, 256, len(seen))
