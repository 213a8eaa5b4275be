"""Text to train on, as tokens: documents split for training and validation; a name, a size and a hash."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from scalesim.errors import InvalidInput

__all__ = ["Corpus", "from_documents", "load_corpus"]

_SEPARATOR = 0  # a byte that text does not hold
_SUFFIXES = frozenset({".py", ".txt", ".rst", ".md", ".json", ".toml", ".csv", ".html", ".c", ".h", ""})
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

    Losses of two corpora must not be compared: `hash` tells whether two are the same.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    vocab_size: int
    n_documents: int

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


def load_corpus(source: str | Path = "stdlib", validation: float = 0.05) -> Corpus:
    """Read a corpus: "stdlib", a text file, a folder of text files, or a .npy array of token numbers.

    "stdlib" is the Python standard library's own sources on this machine, byte by byte: real text on every
    machine with no download. A file of text is one document a blank line apart; a folder is one document a
    file; an array of token numbers is split at its end.

    Args:
        source: what to read.
        validation: the part of documents kept for validation, chosen by each document's own hash.

    Raises:
        InvalidInput: no such file, nothing to read in it, or a part that is not between 0 and 1.

    >>> corpus = load_corpus("stdlib")
    >>> corpus.vocab_size, len(corpus.train) > 5_000_000
    (256, True)
    """
    if not 0 < validation < 1:
        raise InvalidInput(f"validation must be between 0 and 1, but is {validation}.")
    if source == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        version = sysconfig.get_python_version()
        return from_documents(_files(root, {".py"}), validation, f"python {version} standard library")
    path = Path(source)
    if not path.exists():
        raise InvalidInput(f"corpus {str(source)!r} is no file or folder (and not the name stdlib).")
    if path.suffix == ".npy":
        return _from_array(path, validation)
    if path.is_dir():
        return from_documents(_files(path, _SUFFIXES), validation, str(path))
    return from_documents(path.read_bytes().split(b"\n\n"), validation, str(path))


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


def _from_array(path: Path, validation: float) -> Corpus:
    tokens = np.load(path, mmap_mode="r")
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer) or len(tokens) < 2:
        raise InvalidInput(
            f"corpus {str(path)!r} must be a one-dimensional array of whole token numbers, but is "
            f"{tokens.dtype} of shape {tokens.shape}."
        )
    if tokens.min() < 0:
        raise InvalidInput(f"corpus {str(path)!r} holds the negative token number {tokens.min()}.")
    cut = len(tokens) - max(1, round(len(tokens) * validation))
    return Corpus(str(path), tokens[:cut], tokens[cut:], int(tokens.max()) + 1, 1)


def _files(root: Path, suffixes: frozenset[str] | set[str]) -> Iterator[bytes]:
    """Read the files under a folder in the order of their names; installed packages are not part of it."""
    for path in sorted(root.rglob("*")):
        if path.suffix in suffixes and path.is_file() and "site-packages" not in path.parts:
            data = path.read_bytes()
            if _SEPARATOR not in data:  # not text
                yield data
