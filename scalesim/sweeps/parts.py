"""Everything to Parquet: one part for each block, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scalesim.files import write_whole
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.screen import MEASURES
from scalesim.workload import Workload

__all__ = ["write_part"]

ROW_GROUP = 1 << 18


def write_part(
    folder: Path,
    number: int,
    indices: np.ndarray,
    sizes: np.ndarray,
    measures: Sequence[np.ndarray],
    workloads: Sequence[Workload],
) -> None:
    """Write a block's designs, a row for each with each workload, to `part-NUMBER.parquet` in a folder.

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
    pl.concat(frames).write_parquet(content, row_group_size=ROW_GROUP)
    write_whole(folder / f"part-{number:09d}.parquet", content.getvalue(), "save_all")
