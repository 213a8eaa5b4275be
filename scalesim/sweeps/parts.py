"""Everything to Parquet: one part for each block, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scalesim.errors import InvalidInput
from scalesim.files import write_whole
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.screen import MEASURES
from scalesim.workload import Workload

__all__ = ["parts_there", "write_part"]

ROW_GROUP = 1 << 18


def write_part(
    folder: Path,
    number: int,
    indices: np.ndarray,
    sizes: np.ndarray,
    measures: Sequence[np.ndarray],
    workloads: Sequence[Workload],
    question: Mapping[str, str],
) -> None:
    """Write a block's designs, a row for each with each workload, to `part-NUMBER.parquet` in a folder.

    The file's metadata say of which question the part is.

    Columns: index, the sizes, context_length, batch_size, loss (nats a token), memory (bytes), flops,
    objective.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    import polars as pl

    frames = []
    for columns, workload in zip(measures, workloads, strict=True):
        shape = {name: sizes[:, i].astype(np.int32) for i, name in enumerate(SIZES)}
        asked = {"context_length": float(workload.context_length), "batch_size": float(workload.batch_size)}
        frame = pl.DataFrame({"index": indices.astype(np.int64), **shape})
        frame = frame.with_columns(*(pl.lit(value).alias(name) for name, value in asked.items()))
        frames.append(
            frame.with_columns(*(pl.Series(name, columns[:, i]) for i, name in enumerate(MEASURES)))
        )
    content = io.BytesIO()
    pl.concat(frames).write_parquet(content, row_group_size=ROW_GROUP, metadata=dict(question))
    write_whole(_part(folder, number), content.getvalue(), "save_all")


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:09d}.parquet"


def parts_there(folder: Path, question: Mapping[str, str]) -> set[int]:
    """Return the numbers of the blocks that a folder holds already.

    Raises:
        InvalidInput: it holds a part of another question, or one that cannot be read.
    """
    import polars as pl

    found = set()
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            held = pl.read_parquet_metadata(path)
        except (pl.exceptions.PolarsError, OSError):
            held = {}
        differs = [part for part, asked in question.items() if held.get(part) != asked]
        if differs or not path.stem.removeprefix("part-").isdigit():
            raise InvalidInput(
                f"save_all {str(folder)!r} holds {path.name} of another sweep"
                f"{f': another {differs[0]}' if held else ''}. Give another folder, or empty that one."
            )
        found.add(int(path.stem.removeprefix("part-")))
    return found
