"""Accelerators: what their data sheets promise, and what share of it kernels were measured to reach."""

from __future__ import annotations

import csv
import difflib
import functools
import importlib.resources
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from scalesim.borrowing import Sheet, borrow
from scalesim.catalogue import Catalogue
from scalesim.efficiency import Efficiency, measured_efficiency
from scalesim.errors import InvalidInput, check_number, choose, shown
from scalesim.faces import Face, Shown
from scalesim.files import read_json, write_json
from scalesim.pytree import label, register
from scalesim.schema import text
from scalesim.types import Num
from scalesim.workload import COMPUTE, Compute

__all__ = ["Hardware", "catalogue_sheet", "hardware_catalogue", "load_hardware", "save_hardware", "sheet_of"]


@register
@dataclass(frozen=True, kw_only=True, repr=False)
class Hardware(Shown):
    """One accelerator, in the units of its data sheet: decimal giga and tera, dense (not sparse) peaks.

    Every figure is a leaf of the pytree: costs can be differentiated with respect to all of them.

    Attributes:
        name: what reports call it.
        bf16_tflops, fp8_tflops, int8_tops, fp4_tflops: dense peak of the matrix units, 1e12 operations a
            second; None where the units do not exist. NVIDIA prints sparse figures, twice these.
        memory_gb: memory of one accelerator, 1e9 bytes. Vendors' "80 GB" is often 80 GiB, 7% more.
        bandwidth_gbs: memory bandwidth, 1e9 bytes a second.
        cache_mb, cache_gbs: size (1e6 bytes) and bandwidth of the last cache, where passes are so small that
            their weights stay in it from one to the next: a processor's. None: all is read from memory.
        interconnect_gbs: bandwidth between accelerators of one node or pod, one way, 1e9 bytes a second.
        scaleout_gbs: bandwidth between nodes, one way, 1e9 bytes a second.
        scaleup_size: accelerators that the fast interconnect joins.
        power_w: power of one accelerator under load.
        price_low, price_typical, price_high: $ an accelerator and hour.
        efficiency: the share of the peaks that kernels reach, and their fixed costs.
        generation, memory: of its matrix units ("hopper"), and the kind of memory ("hbm" or "gddr"): whose
            constants it borrows, where its own were not measured ("": not stated).
        source: where the figures were read.

    Raises:
        InvalidInput: a figure given as a Python number that is not positive.
    """

    name: str = label("custom")
    bf16_tflops: Num
    fp8_tflops: Num | None = None
    int8_tops: Num | None = None
    fp4_tflops: Num | None = None
    memory_gb: Num
    bandwidth_gbs: Num
    cache_mb: Num | None = None
    cache_gbs: Num | None = None
    interconnect_gbs: Num | None = None
    scaleout_gbs: Num | None = None
    scaleup_size: Num | None = None
    power_w: Num | None = None
    price_low: Num | None = None
    price_typical: Num | None = None
    price_high: Num | None = None
    efficiency: Efficiency
    generation: str = label("")
    memory: str = label("")
    source: str = label("")

    def __post_init__(self) -> None:
        for name in _FIGURES:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            check_number(f"{name} of {self.name}", value)
            if isinstance(value, int | float) and not _LEAST <= value <= _MOST[name]:
                if value < _LEAST:
                    raise InvalidInput(
                        f"{name} of {self.name} must be above 0 and finite, but is {shown(value)}."
                    )
                raise InvalidInput(
                    f"{name} of {self.name} must be at most {_MOST[name]:,.0f}, but is {shown(value)}"
                    f"{_SLIPS}."
                )

    def _face(self) -> Face:
        rows = [(name, value) for name in _FIGURES if (value := getattr(self, name)) is not None]
        source = f"Source: {self.source.split(';')[0]}." if self.source else ""
        return Face(f"Hardware {self.name}", ("figure", "value"), rows, (source,), most=16)

    def need(self, name: str) -> Num:
        """Return a figure, or raise InvalidInput where the hardware states none."""
        value = getattr(self, name)
        if value is None:
            stated = [figure for figure in _FIGURES if getattr(self, figure) is not None]
            raise InvalidInput(f"{name} is not known for {self.name}; it states {', '.join(stated)}.")
        return value

    def peak_flops(self, compute: Compute) -> Num:
        """Return the dense peak of the matrix units in a number format, in operations a second.

        Raises:
            InvalidInput: the hardware has no units for that format.

        >>> f"{load_hardware('h100-sxm').peak_flops('bf16'):.4g}"
        '9.894e+14'
        """
        peaks = {"bf16": "bf16_tflops", "fp8": "fp8_tflops", "int8": "int8_tops", "fp4": "fp4_tflops"}
        peaks["fp8_block"] = peaks["fp8"]
        value = getattr(self, peaks[choose("compute", compute, peaks)])
        if value is None:
            has = [name for name in COMPUTE if getattr(self, peaks[name]) is not None]
            raise InvalidInput(
                f"compute {compute!r} has no matrix units on {self.name}; {', '.join(has)} would do."
            )
        return value * 1e12

    @property
    def memory_bytes(self) -> Num:
        """Memory of one accelerator, in bytes."""
        return self.memory_gb * 1e9

    @property
    def bandwidth(self) -> Num:
        """Memory bandwidth, in bytes a second."""
        return self.bandwidth_gbs * 1e9

    def bandwidth_at(self, n_bytes: Num) -> Num:
        """Return the bandwidth, bytes a second, at which n_bytes that are read over and over come.

        1 / (hit / cache + (1 - hit) / memory) with hit = 1 / (1 + (n_bytes / cache size)^4): a cliff
        a factor of two wide (measured: `experiments/this_machine.py`). Without a cache it is `bandwidth`.

        >>> box = {"bf16_tflops": 0.1, "memory_gb": 16, "bandwidth_gbs": 20, "cache_mb": 16, "cache_gbs": 100}
        >>> [round(float(Hardware.from_dict(box).bandwidth_at(b)) / 1e9) for b in (1e6, 1e9)]
        [100, 20]
        """
        if self.cache_mb is None or self.cache_gbs is None:
            return self.bandwidth
        missed = jax.nn.sigmoid(4 * jnp.log(n_bytes / (self.cache_mb * 1e6)))
        return 1e9 / ((1 - missed) / self.cache_gbs + missed / self.bandwidth_gbs)

    @property
    def price(self) -> tuple[Num, Num, Num]:
        """$ an accelerator and hour: low, typical and high; raises InvalidInput where none is stated."""
        return self.need("price_low"), self.need("price_typical"), self.need("price_high")

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> Hardware:
        """Return hardware from a plain dictionary with the fields above.

        `bf16_tflops`, `memory_gb` and `bandwidth_gbs` are needed, all else may be left out. `efficiency` is
        the name of a measured accelerator whose constants to take ("a100", "h100"; those of the measured ones
        that it is like, by its figures, if left out), or a dictionary as `Efficiency.from_dict` takes it.

        Raises:
            InvalidInput: a field that is not known, or one that is needed and missing.

        >>> card = {"name": "mine", "bf16_tflops": 400, "memory_gb": 48, "bandwidth_gbs": 1800}
        >>> Hardware.from_dict(card).bandwidth
        1800000000000.0
        """
        known = [f.name for f in fields(cls)]
        for name in figures:
            choose("hardware field", name, known)
        for name in ("bf16_tflops", "memory_gb", "bandwidth_gbs"):
            if figures.get(name) is None:
                raise InvalidInput(f"{name} is missing from the hardware; a number above 0 would do.")
        for name in _TEXTS:
            text(figures.get(name, ""), f"hardware field {name}")
        efficiency = figures.get("efficiency", "h100")
        if not isinstance(efficiency, str | Mapping | Efficiency):
            raise InvalidInput(
                f"hardware field efficiency must be the name of a measured accelerator (a100 or h100) or an "
                f"object of its constants, but is {shown(efficiency)}."
            )
        if isinstance(efficiency, str):
            efficiency = measured_efficiency(efficiency)
        elif isinstance(efficiency, Mapping):
            efficiency = Efficiency.from_dict(efficiency)
        made = cls(**{**figures, "efficiency": efficiency})
        _check_sheet(made)
        if figures.get("efficiency") is None:
            return replace(made, efficiency=borrow(sheet_of(figures)))
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary of numbers, which `from_dict` takes and JSON holds."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**out, "efficiency": self.efficiency.to_dict()}


_TEXTS = ("name", "generation", "memory", "source")
_FIGURES = tuple(f.name for f in fields(Hardware) if f.name not in ("efficiency", *_TEXTS))

_OPTIONAL = frozenset(f.name for f in fields(Hardware) if f.default is None)

_MOST: dict[str, float] = {
    **dict.fromkeys(_FIGURES, 1e7),
    **dict.fromkeys(("bf16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops"), 1e6),
    **dict.fromkeys(("memory_gb", "power_w", "scaleup_size"), 1e6),
    **dict.fromkeys(("bandwidth_gbs", "cache_gbs", "interconnect_gbs", "scaleout_gbs"), 1e6),
    **dict.fromkeys(("price_low", "price_typical", "price_high"), 1e5),
}
"""What no accelerator has: a figure beyond is in another unit."""
_LEAST = 1e-9
_SLIPS = " (tera- and gigaunits, as its name says: 3350 GB/s, not 3.35e12 bytes/s)"


_MOST_RATIO = 2e4
"""FLOPs a byte of bandwidth: data sheets have 0.1 to 1,500."""


@functools.cache
def _known(column: str) -> tuple[str, ...]:
    """Return what the catalogue has in a column of words."""
    return tuple(sorted({row[column] for row in _rows()}))


def _check_sheet(made: Hardware) -> None:
    """Refuse figures that are plausible one by one, and not together."""
    name = made.name
    if not all(isinstance(getattr(made, figure), int | float | None) for figure in _FIGURES):
        return  # being differentiated
    if 1e3 * made.bf16_tflops / made.bandwidth_gbs > _MOST_RATIO:
        raise InvalidInput(
            f"bandwidth_gbs of {name} is {shown(made.bandwidth_gbs)} beside a bf16_tflops of "
            f"{shown(made.bf16_tflops)}: one of the two is in another unit{_SLIPS}."
        )
    prices = [(n, getattr(made, n)) for n in ("price_low", "price_typical", "price_high")]
    stated = [(n, value) for n, value in prices if value is not None]
    for (low, less), (high, more) in itertools.pairwise(stated):
        if less > more:
            raise InvalidInput(f"{low} of {name} must be at most {high}, but they are {less} and {more}.")
    if made.scaleup_size is not None and made.scaleup_size != int(made.scaleup_size):
        raise InvalidInput(f"scaleup_size of {name} must be a whole number, but is {made.scaleup_size}.")
    if (made.cache_mb is None) != (made.cache_gbs is None):
        raise InvalidInput(f"cache_mb and cache_gbs of {name} tell of one cache: give both, or neither.")
    for field in ("generation", "memory"):
        given = getattr(made, field)
        near = difflib.get_close_matches(given.lower(), _known(field), n=1, cutoff=0.6)
        if given and near and given != near[0]:
            raise InvalidInput(f"{field} {given!r} of {name} is not known; did you mean {near[0]!r}?")


def sheet_of(
    figures: Mapping[str, Any], last_cache_mb: float | None = None, clock_ghz: float | None = None
) -> Sheet:
    """What of a data sheet tells whose constants an accelerator may borrow."""
    link = figures.get("interconnect_gbs")
    peak, bandwidth = (float(figures[name]) for name in ("bf16_tflops", "bandwidth_gbs"))
    known = {name: str(figures.get(name) or "") for name in ("generation", "memory")}
    known_link = None if link is None else float(link)
    return Sheet(peak, bandwidth, known_link, **known, last_cache_mb=last_cache_mb, clock_ghz=clock_ghz)


def catalogue_sheet(name: str) -> Sheet:
    """Return the data sheet of an accelerator of the catalogue, by its full name in any case."""
    rows = {row["name"].lower(): row for row in _rows()}
    return _sheet(rows[choose("hardware", name.lower(), rows)])


def _sheet(row: Mapping[str, str]) -> Sheet:
    more = {name: float(row[name]) if row[name] else None for name in ("last_cache_mb", "clock_ghz")}
    return sheet_of(_figures(row), **more)


# Accelerators whose kernels were measured; the others borrow, and the report says so.
_MEASURED = {
    "A100-80GB-SXM": "a100",
    "H100-SXM": "h100",
    "H200-SXM": "h200",
    "B200-SXM": "b200",
    "L40S": "l40s",
}
_COLUMNS = {
    "bf16_tflops": "bf16_dense_tflops",
    "fp8_tflops": "fp8_dense_tflops",
    "int8_tops": "int8_dense_tops",
    "fp4_tflops": "fp4_dense_tflops",
    "memory_gb": "hbm_gb",
    "bandwidth_gbs": "hbm_bw_gbs",
    "interconnect_gbs": "interconnect_unidir_gbs_per_chip",
    "scaleout_gbs": "scaleout_gbs_per_chip",
    "scaleup_size": "scaleup_domain",
    "power_w": "tdp_w",
    "price_low": "price_low_usd_h",
    "price_typical": "price_typ_usd_h",
    "price_high": "price_high_usd_h",
}


@functools.cache
def hardware_catalogue() -> Mapping[str, Hardware]:
    """Return every accelerator of the catalogue, by lower-case name."""
    return Catalogue({row["name"].lower(): functools.partial(_read, row) for row in _rows()})


def _rows() -> Iterator[dict[str, str]]:
    table = (importlib.resources.files("scalesim") / "data" / "hardware.csv").read_text(encoding="utf-8")
    return csv.DictReader(table.splitlines())


def _figures(row: Mapping[str, str]) -> dict[str, Any]:
    figures = {name: float(row[column]) if row[column] else None for name, column in _COLUMNS.items()}
    return {**figures, "generation": row["generation"], "memory": row["memory"]}


def _read(row: Mapping[str, str]) -> Hardware:
    name = row["name"]
    own = _MEASURED.get(name)
    efficiency = borrow(_sheet(row)) if own is None else measured_efficiency(own)
    # The table's sources joined: what the figures rest on travels with them.
    source = "; ".join(filter(None, (row["spec_source"], row["price_source"], row["caveats"])))
    return Hardware(name=name, efficiency=efficiency, source=source, **_figures(row))


def load_hardware(hardware: str | Mapping[str, Any] | Hardware) -> Hardware:
    """Return hardware from the catalogue by name, from a JSON file's path, or from a plain dictionary.

    A name may leave out the form (`a100` is A100-80GB-SXM, `h100` H100-SXM, `gb200` GB200-NVL72).

    Raises:
        InvalidInput: the name is not in the catalogue, or the dictionary has an unknown or missing field.

    >>> load_hardware("a100-80gb").memory_gb
    80.0
    """
    if isinstance(hardware, Hardware):
        return hardware
    if isinstance(hardware, Path):
        hardware = str(hardware)
    if not isinstance(hardware, str | Mapping):
        raise InvalidInput(f"hardware must be a name, a path or a dictionary, but is {shown(hardware)}.")
    if isinstance(hardware, Mapping):
        return Hardware.from_dict(hardware)
    if hardware.endswith(".json"):
        return Hardware.from_dict(_read_json(hardware))
    catalogue = hardware_catalogue()
    key = hardware.lower()
    key = {"a100": "a100-80gb-sxm", "a100-sxm": "a100-80gb-sxm"}.get(key, key)
    longer = [name for name in catalogue if name.startswith(key)]
    if f"{key}-sxm" in catalogue:
        key = f"{key}-sxm"
    elif key not in catalogue and len(longer) == 1:
        key = longer[0]
    return catalogue[choose("hardware", key, catalogue)]


def save_hardware(hardware: Hardware, path: str | Path) -> None:
    """Write hardware as a JSON file, which `load_hardware` reads.

    Raises:
        InvalidInput: the file cannot be written.
        Unreachable: the disk is full; the old file stays.
    """
    write_json(path, hardware.to_dict(), "out", indent=2)


def _read_json(path: str) -> dict[str, Any]:
    figures = read_json(path, "hardware file")
    if not isinstance(figures, dict):
        raise InvalidInput(f"hardware file {path!r} must hold one JSON object, but holds {shown(figures)}.")
    return figures
