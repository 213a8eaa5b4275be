"""The share of its peaks that hardware was measured to reach, kernel by kernel.

The constants are of the classes in `scalesim.constants`; the values ship in
`data/efficiency.json`, written by `experiments/hardware_constants.py` from public measurements.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from scalesim.constants import CONSTANTS, DecodeConstants, GemmConstants, PrefillConstants, kind_class
from scalesim.errors import InvalidInput, choose
from scalesim.pytree import label, register, static
from scalesim.schema import anything, array, mapping, maybe, number, text
from scalesim.types import Num

__all__ = [
    "Efficiency",
    "EngineConstants",
    "engine_constants",
    "measured_efficiency",
    "shipped_constants",
]


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
        hop_us: latency of one collective step between nodes, and inside one where it was not measured.
        host: share of the time of calls around kernels that counts; captured graphs hide it.
        eager_us: time a layer in which the host launches its kernels one by one; a pass takes no less. 0:
            graphs are captured. Part of the structure, no leaf.
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
    host: Num = 0.0
    eager_us: float = static(0.0)


@register
@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """All constants of one accelerator, with where they come from and how well they hold.

    Attributes:
        gemm, decode, prefill: of products and attention in BF16 (or in whatever a machine was measured).
        engine: of what lies between the kernels.
        others: of further kernels and formats, by kind and format ("gemm fp8", "experts bf16"): see `of`.
            Part of the structure, not leaves: hundreds more would cost each call more than they tell.
        source: where they come from.
        error: the mean absolute relative error of "gemm", "decode", "prefill" and "model" on measurements
            held out of the fit ("decode": the median's); empty where nothing was measured.
        spread: how far measurements lie from predictions: by kind and format, the half width of 90%
            intervals of log(measured / predicted) for kernels of 5, 50 and 500 microseconds, from residuals
            that took no part in the fit.
        status: "fitted" to this accelerator's kernels, "borrowed" from others by their data sheets, or
            "stated" by a user.
    """

    gemm: GemmConstants
    decode: DecodeConstants
    prefill: PrefillConstants
    engine: EngineConstants
    others: tuple[tuple[str, Any], ...] = static(())
    source: str = label("")
    error: tuple[tuple[str, float], ...] = label(())
    spread: tuple[tuple[str, tuple[float, ...]], ...] = label(())
    status: str = label("stated")

    def of(self, kind: str, *formats: str) -> Any:
        """Return the constants of a kind of kernel in the first of some formats that they are known for.

        None where none is known: another accelerator's would have to be borrowed.

        >>> measured_efficiency("h100").of("gemm", "bf16") == measured_efficiency("h100").gemm
        True
        """
        known = dict(self.others)
        for name in formats or ("",):
            if name == "bf16" and kind in ("gemm", "decode", "prefill"):
                return getattr(self, kind)
            found = known.get(f"{kind} {name}".strip())
            if found is not None:
                return found
        return None

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
        mapping(anything)(values, "efficiency")
        for name in values:
            choose("efficiency", name, [*groups, "others", "source", "error", "spread", "status"])
        made: dict[str, Any] = {}
        for group, kind in groups.items():
            given = values.get(group)
            if given is None:
                raise InvalidInput(f"efficiency.{group} is missing; a dictionary of its constants would do.")
            made[group] = _made(kind, f"efficiency.{group}", given)
        others = []
        for name, given in sorted(mapping(anything)(values.get("others", {}), "efficiency.others").items()):
            kind = CONSTANTS[choose("efficiency.others", kind_class(name), CONSTANTS)]
            others.append((name, _made(kind, f"efficiency.others.{name}", given)))
        error = tuple(sorted(mapping(number(0.0))(values.get("error", {}), "efficiency.error").items()))
        status = choose("efficiency.status", str(values.get("status", "stated")), STATUSES)
        source = text(values.get("source", ""), "efficiency.source")
        widths = mapping(array(1))(values.get("spread", {}), "efficiency.spread").items()
        spread = tuple(sorted((name, tuple(map(float, width))) for name, width in widths))
        return cls(**made, others=tuple(others), source=source, error=error, spread=spread, status=status)

    def to_dict(self) -> dict[str, Any]:
        """Return the constants as a nested dictionary of numbers, ready for JSON."""
        out = {name: _stated(getattr(self, name)) for name in ("gemm", "decode", "prefill", "engine")}
        return {
            **out,
            "others": {name: _stated(constants) for name, constants in self.others},
            "source": self.source,
            "error": dict(self.error),
            "spread": {name: list(width) for name, width in self.spread},
            "status": self.status,
        }


STATUSES = ("fitted", "borrowed", "stated")


def _made(kind: type, name: str, given: Mapping[str, Any]) -> Any:
    known = {f.name: f for f in fields(kind)}
    for constant, value in mapping(maybe(number()))(given, name).items():
        choose(name, constant, known)
        if value is None and known[constant].default is not None:
            raise InvalidInput(f"{name}.{constant} must be a finite number, but is None.")
        if value is not None:
            above = 0.0 if constant in _POSITIVE else None
            number(0.0, _MOST, above=above)(value, f"{name}.{constant}")
    try:
        return kind(**given)
    except TypeError as problem:
        raise InvalidInput(f"{name} is incomplete: {problem}.") from None


def _stated(constants: Any) -> dict[str, Any]:
    """The constants that are not absent."""
    return {name: value for name, value in asdict(constants).items() if value is not None}


@functools.cache
def shipped_constants() -> dict[str, Any]:
    """Return what `data/efficiency.json` holds.

    "cards": each measured accelerator's data sheet and constants; "engines": constants of what lies between
    kernels, by engine; "reach": by kind of kernel and format, what is added (in squares) to
    the half width of intervals a doubling between the data sheets of two accelerators, one of which lends its
    constants to the other.
    """
    held = (importlib.resources.files("scalesim") / "data" / "efficiency.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(held)
    return table


def engine_constants(name: str) -> EngineConstants:
    """Return the constants of an engine, whatever the accelerator it was measured on.

    "vllm-2024": fitted to 7B models on an H100 SXM; "vllm-2026": to two small models on an H100 PCIe
    (`experiments/hardware_models.py`). A step of the newer one costs half as much, a sequence a sixth.

    Raises:
        InvalidInput: the name is none of them.

    >>> engine_constants("vllm-2026").sequence_us < engine_constants("vllm-2024").sequence_us
    True
    """
    engines = shipped_constants()["engines"]
    return EngineConstants(**engines[choose("engine", name, engines)])


_POSITIVE = ("compute", "bandwidth", "sharpness", "scale", "stream", "link")
"""Constants that something is divided by; none of the others is below 0."""
_MOST = 1e15


@functools.cache
def measured_efficiency(name: str, *, borrowed: bool = False) -> Efficiency:
    """Return the measured constants of one of the accelerators that have a table ("a100", "h100", ...).

    With `borrowed`, they are to stand for another accelerator: their stated errors, which were measured on
    the named one, are dropped.

    Raises:
        InvalidInput: the name is none of them.
    """
    cards = shipped_constants()["cards"]
    efficiency = Efficiency.from_dict(cards[choose("efficiency", name, cards)]["efficiency"])
    if borrowed:
        source = f"borrowed from {name}: {efficiency.source}"
        return replace(efficiency, source=source, error=(), status="borrowed")
    return efficiency
