"""Tables of measured kernels, as public collections publish them: read by kind and format."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from scalesim.cost.fitting import part
from scalesim.cost.kernel_forms import ENDLESS, Table
from scalesim.errors import InvalidInput, choose
from scalesim.files import decoded, read_bytes, read_parquet

__all__ = ["KINDS", "KernelRows", "read_kernel_table"]


class KernelRows(NamedTuple):
    """Measured kernels of one kind and format.

    Attributes:
        kind: as `kernel_seconds` takes it.
        format: of weights or of the cache ("" where the kind has none).
        table: the columns, with `seconds`.
    """

    kind: str
    format: str
    table: Table


_FORMATS = {
    "bfloat16": "bf16",
    "float16": "bf16",
    "half": "bf16",
    "fp8": "fp8",
    "fp8_static": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "fp4",
    "int4_wo": "int4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
    "int8": "int8",
}
_OLDER = {"latency_ms": "latency", "kv_len": "step"}  # columns of another collection


def _gemm(d: pl.DataFrame) -> dict[str, np.ndarray]:
    return {name: _column(d, name) for name in "mnk"}


def _window(d: pl.DataFrame) -> np.ndarray:
    if "window_size" not in d.columns:
        return np.full(len(d), ENDLESS)
    window = _column(d, "window_size")
    return np.where(window > 0, window, ENDLESS)


def _heads(d: pl.DataFrame) -> dict[str, np.ndarray]:
    names = {"batch": "batch_size", "n_head": "num_heads", "n_kv_head": "num_key_value_heads"}
    out = {name: _column(d, column) for name, column in names.items()}
    # Some tables write 0 where every query head has its own.
    out["n_kv_head"] = np.where(out["n_kv_head"] > 0, out["n_kv_head"], out["n_head"])
    return {**out, "head_dim": _column(d, "head_dim"), "window": _window(d)}


def _decode(d: pl.DataFrame) -> dict[str, np.ndarray]:
    heads = _heads(d)
    length = _column(d, "step") + (_column(d, "isl") if "isl" in d.columns else 0.0)
    return {**heads, "length": np.minimum(length, heads["window"])}


def _prefill(d: pl.DataFrame) -> dict[str, np.ndarray]:
    if "isl" not in d.columns:
        return {**_heads(d), "new": _column(d, "seq_len"), "past": np.zeros(len(d))}
    return {**_heads(d), "new": _column(d, "isl"), "past": _column(d, "step")}


def _latent(d: pl.DataFrame) -> dict[str, np.ndarray]:
    names = {"batch": "batch_size", "n_head": "num_heads", "new": "isl", "past": "step"}
    return {name: _column(d, column) for name, column in names.items()}


def _batched(d: pl.DataFrame) -> dict[str, np.ndarray]:
    before = (d["op_name"] == "mla_gen_pre").to_numpy()
    k = np.where(before, 128.0, 512.0)
    return {"m": _column(d, "num_tokens"), "k": k, "n": 640.0 - k, "products": _column(d, "num_heads")}


def _delta(d: pl.DataFrame) -> dict[str, np.ndarray]:
    names = {"batch": "batch_size", "length": "seq_len", "n_key": "num_k_heads", "n_value": "num_v_heads"}
    return {name: _column(d, column) for name, column in names.items()}


def _experts(d: pl.DataFrame) -> dict[str, np.ndarray]:
    names = {"tokens": "num_tokens", "d_model": "hidden_size", "top_k": "topk", "n_expert": "num_experts"}
    out = {name: _column(d, column) for name, column in names.items()}
    inner = _column(d, "inter_size")
    # The experts of Nemotron 3 are not gated: two matrices.
    plain = ((out["d_model"] == 2688) & (inner == 1856)) | (out["top_k"] == 22)
    skewed = d["distribution"].str.extract(r"([0-9.]+)$").cast(pl.Float64).fill_null(0.0).to_numpy()
    return {
        **out,
        "d_ff": inner / _column(d, "moe_tp_size"),
        "devices": _column(d, "moe_ep_size"),
        "matrices": np.where(plain, 2.0, 3.0),
        "skew": skewed,
    }


def _collective(d: pl.DataFrame) -> dict[str, np.ndarray]:
    """The size of a message is given in values."""
    name = "allreduce_dtype" if "allreduce_dtype" in d.columns else "nccl_dtype"
    narrow = d[name].is_in(["int8", "fp8"]).to_numpy()
    host = np.zeros(len(d))
    if "backend" in d.columns:
        host = d["backend"].str.contains("eager").to_numpy().astype(float)
    n_bytes = _column(d, "message_size") * np.where(narrow, 1.0, 2.0)
    return {"devices": _column(d, "num_gpus"), "n_bytes": n_bytes, "host": host}


_READERS: dict[str, Callable[[pl.DataFrame], dict[str, np.ndarray]]] = {
    "gemm": _gemm,
    "decode": _decode,
    "prefill": _prefill,
    "latent decode": _latent,
    "latent prefill": _latent,
    "batched gemm": _batched,
    "experts": _experts,
}
KINDS = {
    "gemm": "gemm",
    "generation_attention": "decode",
    "context_attention": "prefill",
    "attn_decode": "decode",
    "attn_prefill": "prefill",
    "mla_generation_module": "latent decode",
    "mla_context_module": "latent prefill",
    "mla_bmm": "batched gemm",
    "mla_gen_pre": "batched gemm",
    "mla_gen_post": "batched gemm",
    "gdn": "delta",
    "moe": "experts",
    "custom_allreduce": "all-reduce",
    "nccl": "nccl",
}
"""What kernels are called in public tables (file name or `op_name`), and here."""

_DELTA = {
    "causal_conv1d_fn": "delta convolution",
    "causal_conv1d_update": "delta convolution step",
    "chunk": "delta rule",
    "fused_recurrent": "delta rule step",
}
_NCCL = {
    "all_reduce": "nccl all-reduce",
    "all_gather": "nccl all-gather",
    "reduce_scatter": "nccl reduce-scatter",
    "alltoall": "nccl all-to-all",
}


def read_kernel_table(path: str) -> tuple[KernelRows, ...]:
    """Return the measured kernels of a Parquet or CSV file in the columns of aiconfigurator's collections.

    The kind is read from the file's name, or by its column `op_name`; `latency` is in milliseconds. Matrix
    products (`m`, `n`, `k`, `gemm_dtype`), decode and prefill attention, latent attention, routed experts,
    gated delta nets, all-reduce and NCCL are known.

    Raises:
        InvalidInput: the file cannot be read, its kind is not known, or a column or number is wrong.
    """
    frame = _frame(path)
    kind = _kind(path, frame)
    try:
        groups = list(_groups(kind, frame))
    except pl.exceptions.ColumnNotFoundError as error:
        name = re.findall(r"\w+", str(error))[0]
        raise InvalidInput(f"kernels {path!r} has no column {name!r}, which a table of {kind} has.") from None
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"kernels {path!r} cannot be read: {str(error).splitlines()[0]}.") from None
    return tuple(groups)


def _frame(path: str) -> pl.DataFrame:
    data, name = read_bytes(path, "kernels"), f"kernels {path!r}"
    try:
        if path.endswith(".csv"):
            frame = pl.read_csv(io.StringIO(decoded(data, name)[0]))
        else:
            frame = read_parquet(data, name)
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"kernels {path!r} is not a table: {str(error).splitlines()[0]}.") from None
    if not len(frame):
        raise InvalidInput(f"kernels {path!r} holds no rows.")
    frame = frame.rename({old: new for old, new in _OLDER.items() if old in frame.columns})
    if "latency" not in frame.columns:
        raise InvalidInput(f"kernels {path!r} has no column 'latency' (milliseconds).")
    return frame


def _kind(path: str, frame: pl.DataFrame) -> str:
    """NCCL's and the engine's all-reduce have one op_name, so that the file's name counts first."""
    stem = Path(path).stem.lower().removesuffix("_perf").removesuffix("_bf16")
    named = [name for name in KINDS if stem == name or stem.endswith((f"_{name}", f"-{name}"))]
    if named:
        return KINDS[max(named, key=len)]
    name = str(frame["op_name"][0]) if "op_name" in frame.columns else stem
    if name in _NCCL:
        return "nccl" if "nccl_dtype" in frame.columns else "all-reduce"
    return KINDS[choose("kind of kernels", name, KINDS)]


def _groups(kind: str, frame: pl.DataFrame) -> list[KernelRows]:
    """The rows of a file, those of one kind and format together."""
    if kind in ("delta", "nccl", "all-reduce"):
        if kind == "all-reduce":
            names = np.full(len(frame), "all-reduce")
        elif kind == "nccl":
            names = np.array([_NCCL[choose("op_name", name, _NCCL)] for name in frame["op_name"]])
        else:
            names = np.array([_delta_kind(source) for source in frame["kernel_source"]])
        reader: Callable[[pl.DataFrame], dict[str, np.ndarray]]
        reader = _delta if kind == "delta" else _collective
        keys = [(name, "") for name in names]
    else:
        reader = _READERS[kind]
        keys = [(kind, found) for found in _formats(kind, frame)]
    table = {**reader(frame), "seconds": 1e-3 * _column(frame, "latency")}
    bad = ~(np.isfinite(table["seconds"]) & (table["seconds"] > 0))
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise InvalidInput(
            f"latency must be above 0 and finite, but is {frame['latency'][where]} in row {where + 1}."
        )
    for name, values in table.items():
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            where = int(np.flatnonzero(bad)[0])
            raise InvalidInput(
                f"{name} must be at least 0 and finite, but is {values[where]:g} in row {where + 1}."
            )
    out = []
    for key in sorted(set(keys)):
        rows = np.flatnonzero([one == key for one in keys])
        out.append(KernelRows(*key, part(table, rows)))
    return out


def _delta_kind(source: str) -> str:
    for start, name in _DELTA.items():
        if source.startswith(start):
            return name
    return _DELTA[choose("kernel_source", source, _DELTA)]


def _formats(kind: str, d: pl.DataFrame) -> list[str]:
    columns = {
        "gemm": ("gemm_dtype",),
        "decode": ("kv_cache_dtype",),
        "prefill": ("kv_cache_dtype",),
        "latent decode": ("gemm_type", "kv_cache_dtype"),
        "latent prefill": ("gemm_type", "kv_cache_dtype", "mla_dtype"),
        "batched gemm": ("bmm_dtype",),
        "experts": ("moe_dtype",),
    }[kind]
    plain = columns[0] not in d.columns
    parts = [
        ["bf16"] * len(d) if plain else [_FORMATS[choose(name, str(v), _FORMATS)] for v in d[name].to_list()]
        for name in columns
    ]
    return ["/".join(row) for row in zip(*parts, strict=True)]


def _column(d: pl.DataFrame, name: str) -> np.ndarray:
    try:
        return d[name].cast(pl.Float64).to_numpy()
    except pl.exceptions.InvalidOperationError:
        raise InvalidInput(f"column {name!r} must hold numbers, but holds {d[name].dtype}.") from None
