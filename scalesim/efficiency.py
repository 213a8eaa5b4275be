"""The share of its peaks that hardware was measured to reach, kernel by kernel.

The forms that these constants belong to are in `scalesim.cost.kernels`; the values ship in
`data/efficiency.json`, written by `experiments/hardware_constants.py` from public measurements.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from scalesim.errors import InvalidInput, choose
from scalesim.pytree import register, static
from scalesim.schema import mapping, number, text
from scalesim.types import Num

__all__ = [
    "DecodeConstants",
    "Efficiency",
    "EngineConstants",
    "GemmConstants",
    "PrefillConstants",
    "measured_efficiency",
]


@register
@dataclass(frozen=True, kw_only=True)
class GemmConstants:
    """Of a matrix product [m, k] x [k, n].

    Attributes:
        compute: share of peak FLOP/s reached by a large product.
        bandwidth: share of peak bandwidth reached by a long read.
        sharpness: exponent of the p-norm that joins the two times.
        launch_us: fixed time, microseconds.
        depth_us, depth_exponent: time of a chain of k products, depth_us k^depth_exponent microseconds.
        fill: values of k that pass before the pipeline is full.
        latency_bytes: bytes that the memory could move in the time of its first answer.
        packing: the matrix of a product of many rows is read and written so many times more (processors'
            libraries copy it into tiles first; a single row reads it as it lies).
    """

    compute: Num
    bandwidth: Num
    sharpness: Num
    launch_us: Num
    depth_us: Num
    depth_exponent: Num
    fill: Num
    latency_bytes: Num
    packing: Num = 0.0


@register
@dataclass(frozen=True, kw_only=True)
class DecodeConstants:
    """Of attention of one new token a sequence to its cache.

    Attributes:
        bandwidth: share of peak bandwidth reached by a long read with one query head a KV head.
        group_scale: the time of the read grows by log(group size) / group_scale.
        compute: share of peak FLOP/s (matters to latent attention alone, whose heads share one cache).
        sharpness: exponent of the p-norm.
        launch_us, split_us: fixed time, and what is added to it for caches long enough to be split.
        serial_us, serial_exponent: time a cached token takes where a head's cache is not split, serial_us
            group^-serial_exponent microseconds.
        tile: values of K (and of V) of one head that are read at the least.
        query_weight: bytes of queries and results count so many times.
        head_pad: values of head_dim that the FLOPs are charged beyond its own (softmax).
        unpack: FLOPs that a cached value costs beyond its products (rearranging it, where a kernel must).
    """

    bandwidth: Num
    group_scale: Num
    compute: Num
    sharpness: Num
    launch_us: Num
    split_us: Num
    serial_us: Num
    serial_exponent: Num
    tile: Num
    query_weight: Num
    head_pad: Num = 0.0
    unpack: Num = 0.0


@register
@dataclass(frozen=True, kw_only=True)
class PrefillConstants:
    """Of attention of a whole prompt.

    Attributes:
        compute: share of peak FLOP/s reached by a large head_dim, before the losses below.
        bandwidth: share of peak bandwidth.
        sharpness: exponent of the p-norm.
        launch_us: fixed time.
        tile_rows: query rows of one KV head's group that are computed at the least.
        span_pad: attended positions a row is charged beyond its own (masked tiles at the diagonal).
        head_pad: values of head_dim charged beyond its own (softmax).
        reload: share by which FLOPs grow where every query head has its own KV head.
        serial_us, serial_exponent: time an attended position takes on one row's way,
            serial_us (head_dim / 128)^serial_exponent.
    """

    compute: Num
    bandwidth: Num
    sharpness: Num
    launch_us: Num
    tile_rows: Num
    span_pad: Num
    head_pad: Num
    reload: Num
    serial_us: Num
    serial_exponent: Num


@register
@dataclass(frozen=True, kw_only=True)
class EngineConstants:
    """Of what lies between the kernels in a serving engine.

    Attributes:
        scale: kernels take so many times as long in the engine as alone.
        launch: share of the kernels' fixed times that counts (captured graphs hide a part).
        group: decode attention takes 1 + group log(n_head / n_kv_head) times as long as the measured kernel:
            an engine brings its own, which makes more or less of heads that share a cache.
        layer_us: time a layer beyond its kernels.
        step_us: time a forward pass.
        prompt_us: time a prompt's pass beyond that, where each is a call of its own and steps are not.
        sequence_us: time a sequence and step (sampling, scheduling, detokenisation).
        stream: share of bandwidth that elementwise kernels reach.
        link: share of the interconnect's bandwidth that collectives reach.
        hop_us: latency of one collective step.
    """

    scale: Num = 1.0
    launch: Num = 0.5
    group: Num = 0.1
    layer_us: Num = 2.0
    step_us: Num = 200.0
    sequence_us: Num = 20.0
    stream: Num = 0.8
    link: Num = 0.75
    hop_us: Num = 8.0
    prompt_us: Num = 0.0


@register
@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """All constants of one accelerator, with where they come from and how well they hold.

    `error` maps "gemm", "decode", "prefill" and "model" to the mean absolute relative error on measurements
    held out of the fit ("decode": the median's); empty where nothing was measured.
    """

    gemm: GemmConstants
    decode: DecodeConstants
    prefill: PrefillConstants
    engine: EngineConstants
    source: str = static("")
    error: tuple[tuple[str, float], ...] = static(())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Efficiency:
        """Return the constants of a nested dictionary, as `to_dict` makes it.

        Raises:
            InvalidInput: a constant missing, or one that is not known.
        """
        groups = {
            "gemm": GemmConstants,
            "decode": DecodeConstants,
            "prefill": PrefillConstants,
            "engine": EngineConstants,
        }
        for name in values:
            choose("efficiency", name, [*groups, "source", "error"])
        made: dict[str, Any] = {}
        for group, kind in groups.items():
            given = values.get(group)
            if given is None:
                raise InvalidInput(f"efficiency.{group} is missing; a dictionary of its constants would do.")
            known = [f.name for f in fields(kind)]
            for name, value in mapping(number())(given, f"efficiency.{group}").items():
                choose(f"efficiency.{group}", name, known)
                positive = name in _POSITIVE
                number(0.0, _MOST, above=0.0 if positive else None)(value, f"efficiency.{group}.{name}")
            try:
                made[group] = kind(**given)
            except TypeError as problem:
                raise InvalidInput(f"efficiency.{group} is incomplete: {problem}.") from None
        error = tuple(sorted(mapping(number(0.0))(values.get("error", {}), "efficiency.error").items()))
        return cls(**made, source=text(values.get("source", ""), "efficiency.source"), error=error)

    def to_dict(self) -> dict[str, Any]:
        """Return the constants as a nested dictionary of numbers, ready for JSON."""
        out = asdict(self)
        out["error"] = dict(self.error)
        return out


_POSITIVE = ("compute", "bandwidth", "sharpness", "scale", "stream", "link")
"""Constants that something is divided by."""
_MOST = 1e15


@functools.cache
def measured_efficiency(name: str, *, borrowed: bool = False) -> Efficiency:
    """Return the measured constants of "a100" or "h100".

    With `borrowed`, they are to stand for another accelerator: their stated errors, which were measured on
    the named one, are dropped (constants carry from H100 to H200 within 9%, from A100 to H100 within 23%).

    Raises:
        InvalidInput: the name is neither.
    """
    held = (importlib.resources.files("scalesim.data") / "efficiency.json").read_text(encoding="utf-8")
    table = json.loads(held)
    efficiency = Efficiency.from_dict(table[choose("efficiency", name, table)])
    if borrowed:
        return replace(efficiency, source=f"borrowed from {name}: {efficiency.source}", error=())
    return efficiency
