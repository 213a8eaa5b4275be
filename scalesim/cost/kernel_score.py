"""Predictions beside measured kernels: how far off they are, and constants adjusted to a few rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from scalesim.borrowing import distance, measured_cards
from scalesim.constants import kind_class
from scalesim.cost.adjusting import OWN, adjust_kernel
from scalesim.cost.calibration import ask_about_units
from scalesim.cost.chosen import ALIKE
from scalesim.cost.kernel_forms import kernel_seconds, machine_of
from scalesim.cost.kernel_tables import KernelRows, read_kernel_table
from scalesim.cost.spread import half_width
from scalesim.efficiency import Efficiency
from scalesim.errors import InvalidInput
from scalesim.hardware import Hardware, sheet_of

__all__ = ["KernelScore", "adjust_kernels", "constants_of", "score_kernels"]


@dataclass(frozen=True)
class KernelScore:
    """How far predictions lie from a table's measurements.

    Attributes:
        rows: measurements that were scored.
        mean_error, median_error: of |predicted / measured - 1|.
        bias: mean of predicted / measured - 1.
        interval_holds: share of the measurements inside the stated 90% interval.
        left_out: measurements of formats that the hardware has no units or constants for.
        parts: the same by kind and format.
    """

    rows: int
    mean_error: float
    median_error: float
    bias: float
    interval_holds: float
    left_out: int = 0
    parts: tuple[tuple[str, KernelScore], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON."""
        names = ("rows", "mean_error", "median_error", "bias", "interval_holds")
        out: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.parts:
            out |= {"left_out": self.left_out, "parts": {name: part.to_dict() for name, part in self.parts}}
        return out


def constants_of(efficiency: Efficiency, kind: str, format: str) -> Any:
    """Return the constants of a kind of kernel in a format or the nearest that is known, or None."""
    if not format:
        return efficiency.of(kind)
    first, *rest = format.split("/")
    tail = "".join(f"/{part}" for part in rest)
    formats = [f"{name}{tail}" for name in ALIKE.get(first, (first, "bf16"))]
    if kind in ("decode", "prefill"):
        formats = [format]
    if kind == "latent prefill" and len(rest) == 2:
        formats += [f"{first}/{rest[0]}/bf16", f"{first}/bf16/bf16"]
    return efficiency.of(kind, *formats, "bf16")


def score_kernels(path: str, hardware: Hardware) -> KernelScore:
    """Return how far the constants of hardware, as they are, lie from a file of measured kernels.

    Nothing is fitted. The file is a table as `read_kernel_table` takes it.

    Raises:
        InvalidInput: the file cannot be read, or the hardware knows none of its kernels.
    """
    groups = read_kernel_table(path)
    parts, logs, held, left = [], [], [], 0
    with jax.enable_x64(True):
        for group, constants in _known(groups, hardware):
            if constants is None:
                left += len(group.table["seconds"])
                continue
            machine = machine_of(hardware, group.kind, group.format)
            predicted = np.asarray(kernel_seconds(group.kind, group.table, machine, constants))
            ratio = predicted / group.table["seconds"]
            widths = half_width(hardware.efficiency, group.kind, group.format, predicted)
            inside = np.abs(np.log(ratio)) <= widths
            parts.append((f"{group.kind} {group.format}".strip(), _score(ratio, inside)))
            logs.append(ratio)
            held.append(inside)
    if not parts:
        known = ", ".join(sorted({f"{g.kind} {g.format}".strip() for g in groups}))
        raise InvalidInput(f"kernels {path!r} hold {known}, for which {hardware.name} has no units.")
    whole = _score(np.concatenate(logs), np.concatenate(held))
    return replace(whole, left_out=left, parts=tuple(parts))


def _known(groups: Sequence[KernelRows], hardware: Hardware) -> Iterator[tuple[KernelRows, Any]]:
    """Groups, each with its constants; None where the hardware has none, or no units for the format."""
    for group in groups:
        constants = constants_of(hardware.efficiency, group.kind, group.format)
        try:
            machine_of(hardware, group.kind, group.format)
        except InvalidInput:
            constants = None
        yield group, constants


def _score(ratio: np.ndarray, inside: np.ndarray) -> KernelScore:
    off = np.abs(ratio - 1)
    mean, median, bias = (float(v) for v in (off.mean(), np.median(off), (ratio - 1).mean()))
    return KernelScore(len(ratio), mean, median, bias, float(inside.mean()))


def adjust_kernels(path: str, hardware: Hardware) -> tuple[Hardware, str]:
    """Return hardware whose kernels' constants are adjusted to a file of a few measured ones, and a sentence.

    Each kind and format on its own, by `adjust_kernel`: constants move no further than the rows bear out;
    where each row, predicted from the others, is met clearly worse than before, they stay.

    Raises:
        InvalidInput: the file cannot be read, holds kernels that the hardware has no units for, or times that
            are 20 times what is predicted or more: most likely in other units.
    """
    groups = read_kernel_table(path)
    said = []
    efficiency = hardware.efficiency
    with jax.enable_x64(True):
        for group, constants in _known(groups, hardware):
            name = f"{group.kind} {group.format}".strip()
            if constants is None:
                raise InvalidInput(f"kernels {path!r} hold {name}, for which {hardware.name} has no units.")
            machine = machine_of(hardware, group.kind, group.format)
            predicted = np.asarray(kernel_seconds(group.kind, group.table, machine, constants))
            ask_about_units(predicted, group.table["seconds"], f"latency of {name}", "milliseconds")
            noise = noise_of(hardware.efficiency, group.kind, group.format, predicted)
            away = _doublings(hardware, group.kind)
            found, before, after = adjust_kernel(group.kind, group.table, machine, constants, noise, away)
            efficiency = _with(efficiency, group.kind, group.format, found)
            rows = len(group.table["seconds"])
            moved = (
                f"stay as they are ({before:.1%})"
                if found is constants
                else f"from {before:.1%} to {after:.1%}, each row predicted from the others"
            )
            said.append(f"{rows} {name} kernels: {moved}.")
    source = f"{efficiency.source}; kernels adjusted to {path}"
    return replace(hardware, efficiency=replace(efficiency, source=source)), " ".join(said)


def noise_of(efficiency: Efficiency, kind: str, format: str, seconds: np.ndarray) -> np.ndarray:
    """Return the scale of log(measured / predicted) by its intervals, or the measured cards'."""
    cards = [efficiency] if efficiency.spread else [one for _, one in measured_cards().values()]
    widths = [half_width(one, kind, format, seconds) for one in cards]
    return np.asarray(np.mean(widths, axis=0) / _NORMAL)


def _doublings(hardware: Hardware, kind: str) -> float:
    """How unlike the measured accelerator is whose constants of a kind hardware has."""
    if hardware.efficiency.status == "fitted":
        return OWN
    known = (one for one, _ in measured_cards().values())
    return min(distance(sheet_of(vars(hardware)), one, kind_class(kind)) for one in known)


_NORMAL = 1.645  # an interval of 90% reaches so many standard deviations


def _with(efficiency: Efficiency, kind: str, format: str, constants: Any) -> Efficiency:
    if format == "bf16" and kind in ("gemm", "decode", "prefill"):
        return replace(efficiency, **{kind: constants})
    others = {**dict(efficiency.others), f"{kind} {format}".strip(): constants}
    return replace(efficiency, others=tuple(sorted(others.items())))
