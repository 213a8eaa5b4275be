"""Checkpoints: what a sweep has kept and how far it is, written beside and moved over, with a checksum."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import kind_of, read_bytes, write_whole

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]

VERSION = 1
_MAGIC = b"scalesim sweep %d\n" % VERSION


@dataclass(frozen=True)
class Checkpoint:
    """The state of a sweep between two rounds.

    Attributes:
        question: a fingerprint of each part of what was asked: a checkpoint continues that question alone.
        next_block: blocks before it are done.
        seconds: spent so far, over all interruptions.
        designs: evaluated so far.
        finished: nothing is left.
        packed: [workloads, rows, columns], `Kept.packed` of each workload.
    """

    question: dict[str, str]
    next_block: int
    seconds: float
    designs: int
    finished: bool
    packed: np.ndarray


def write_checkpoint(path: Path, state: Checkpoint) -> None:
    """Write a checkpoint; a reader finds the old one or the new one, never half of one."""
    header = {
        "question": state.question,
        "next_block": state.next_block,
        "seconds": state.seconds,
        "designs": state.designs,
        "finished": state.finished,
    }
    array = io.BytesIO()
    np.save(array, state.packed)
    content = json.dumps(header).encode() + b"\n" + array.getvalue()
    digest = hashlib.sha256(content).hexdigest().encode()
    write_whole(path, _MAGIC + digest + b"\n" + content, "checkpoint")


def read_checkpoint(path: Path, question: dict[str, str]) -> Checkpoint | None:
    """Return the state that a file holds, or None if there is no such file.

    Raises:
        InvalidInput: the file cannot be read or is damaged, or it belongs to another question.
    """
    if kind_of(path) is None:
        return None
    whole = read_bytes(path, "checkpoint")
    kind, _, version = whole.partition(b"\n")[0].rpartition(b" ")
    if kind == _MAGIC.rpartition(b" ")[0] and version.isdigit() and int(version) > VERSION:
        raise InvalidInput(
            f"checkpoint {str(path)!r} is of version {int(version)}; this scalesim reads up to {VERSION}."
        )
    digest, _, content = whole[len(_MAGIC) :].partition(b"\n")
    if not whole.startswith(_MAGIC) or hashlib.sha256(content).hexdigest().encode() != digest:
        raise InvalidInput(
            f"checkpoint {str(path)!r} is damaged or is not a sweep's checkpoint (its checksum differs). "
            "Delete it, or name another file, to start over."
        )
    header, _, array = content.partition(b"\n")
    state = Checkpoint(**json.loads(header), packed=np.load(io.BytesIO(array)))
    for name, asked in question.items():
        if state.question.get(name) != asked:
            raise InvalidInput(
                f"checkpoint {str(path)!r} belongs to another sweep: it differs in {name}. Delete it, or "
                "name another file, to start over."
            )
    return state
