"""Constants from measurements: kernel by kernel for a new accelerator, or a few timings of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.borrowing import SHARES
from scalesim.cost.latency import generation_time, prefill_time, step_time
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.errors import InvalidInput, check_number, choose
from scalesim.hardware import Hardware
from scalesim.shape import Shape
from scalesim.workload import Workload

__all__ = [
    "Calibration",
    "Timing",
    "ask_about_units",
    "calibrate",
    "decode_constant",
    "encode_constant",
    "fit_constants",
]

Constants = TypeVar("Constants")


def _least_squares(
    residuals: Callable[[jax.Array, Any], jax.Array], x: jax.Array, *, steps: int
) -> Callable[[Any], jax.Array]:
    """Return a function of the data that minimises a sum of squares from x, by Levenberg-Marquardt.

    One compiled program for all data of one shape: calibration solves one problem a measurement left out.
    """

    from scalesim.numerics.least_squares import Rows, march  # not what pricing alone needs

    @jax.jit
    def solve(data: Any) -> jax.Array:
        return march(lambda z, _: Rows.squared(residuals(z, data)), x, 1e-2, 0, steps).z

    return solve


def encode_constant(name: str, value: float) -> float:
    """Return where a constant is searched for: its logarithm, the logit of a share."""
    if name in SHARES:
        value = min(max(value, 1e-3), 1 - 1e-3)
        return float(np.log(value / (1 - value)))
    return float(np.log(max(value, 1e-6)))


def decode_constant(name: str, x: jax.Array) -> jax.Array:
    """Return the constant of such a place."""
    return jax.nn.sigmoid(x) if name in SHARES else jnp.exp(x)


_LARGE = 20.0  # a factor that no engine, but another unit explains
_UNITS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6}


def ask_about_units(predicted: np.ndarray, seconds: np.ndarray, field: str, unit: str) -> None:
    """Raise InvalidInput where times are so far from what is predicted that their unit must be another.

    Args:
        predicted: seconds by data sheet and constants.
        seconds: measured, read as if they were in `unit`.
        field: what the measurements are called.
        unit: "seconds", "milliseconds" or "microseconds".
    """
    factor = float(np.exp(np.median(np.log(np.asarray(seconds) / np.asarray(predicted)))))
    if 1 / _LARGE < factor < _LARGE:
        return
    alike = [
        name for name, size in _UNITS.items() if abs(np.log(factor * size / _UNITS[unit])) < np.log(10.0)
    ]
    guess = f"; are they {alike[0]}?" if alike else "."
    raise InvalidInput(
        f"{field} must be in {unit}, but is {factor:.3g} times what data sheet and constants give{guess}"
    )


def fit_constants(
    time: Callable[[Constants], jax.Array],
    start: Constants,
    seconds: Any,
    *,
    fixed: Sequence[str] = (),
    prior: float = 0.2,
    steps: int = 100,
    tolerance: float = 0.05,
) -> Constants:
    """Return the constants under which `time` comes closest to measured seconds.

    Minimises the sum over measurements of the pseudo-Huber loss of log(time / seconds), plus
    (prior * distance from the start)^2 in the logarithms of the constants (the logits of shares): a constant
    that the measurements do not tell stays where it was.

    Args:
        time: seconds of every measured kernel, as a function of the constants.
        start: a dataclass of positive numbers.
        seconds: measured, of the shape of time(start).
        fixed: constants to leave alone.
        prior: weight of the start.
        steps: at most so many Levenberg-Marquardt steps.
        tolerance: relative errors beyond it count linearly, so that no odd kernel bends the fit.
    """
    leaves = [f.name for f in fields(start) if not f.metadata.get("static", False)]  # type: ignore[arg-type]
    names = [name for name in leaves if name not in fixed and getattr(start, name) is not None]
    x0 = jnp.asarray([encode_constant(name, float(getattr(start, name))) for name in names])
    goal = jnp.log(jnp.asarray(seconds))

    def build(x: jax.Array) -> Constants:
        values = {name: decode_constant(name, x[i]) for i, name in enumerate(names)}
        return replace(start, **values)  # type: ignore[type-var]

    def residuals(x: jax.Array, goal: jax.Array) -> jax.Array:
        r = jnp.log(time(build(x))) - goal
        # The square of this is the pseudo-Huber loss; its slope at 0 is that of r itself.
        robust = jnp.sqrt(2 * (jnp.sqrt(1 + (r / tolerance) ** 2) - 1 + 1e-18))
        robust = jnp.sign(r) * tolerance * robust
        return jnp.concatenate([robust, prior * (x - x0)])

    best = build(_least_squares(residuals, x0, steps=steps)(goal))
    return jax.tree.map(float, best)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One measurement of a user's own.

    Attributes:
        shape, workload: what ran.
        seconds: how long it took.
        what: "generation" (a whole batch: prompts, then all tokens), "ttft" (one prompt alone) or "tpot" (one
            token of every sequence).
        parallel: over how many accelerators.
    """

    shape: Shape
    workload: Workload
    seconds: float
    what: str = "generation"
    parallel: Parallel = ONE_DEVICE

    def __post_init__(self) -> None:
        choose("what", self.what, ("generation", "ttft", "tpot"))
        check_number("seconds", self.seconds)
        if self.what == "generation" and self.workload.generated_length is None:
            raise InvalidInput("generated_length must be given for a timing of a generation, but is None.")

    def predict(self, hardware: Hardware) -> jax.Array:
        """Return the seconds that the model gives."""
        if self.what == "ttft":
            alone = replace(self.workload, batch_size=1)
            return prefill_time(self.shape, alone, hardware, self.parallel)
        time = generation_time if self.what == "generation" else step_time
        return time(self.shape, self.workload, hardware, self.parallel)


@dataclass(frozen=True)
class Calibration:
    """Hardware adjusted to measurements, and how well it then fits them.

    Attributes:
        hardware: the adjusted hardware.
        error_before, error: mean absolute relative error on the measurements, before and after.
        error_left_out: the same, each measurement predicted from a calibration on the others (None for
            fewer than three): what to expect of the next.
        status: a sentence.
    """

    hardware: Hardware
    error_before: float
    error: float
    error_left_out: float | None
    status: str


def calibrate(
    measurements: Sequence[Timing],
    hardware: Hardware,
    *,
    constants: Sequence[str] = ("scale", "launch", "group", "step_us", "sequence_us"),
    prior: float = 0.1,
) -> Calibration:
    """Adjust hardware to a few timings of a user's own, and say how large an error is left.

    What differs between two engines on one accelerator is what lies between the kernels, and the attention
    kernel: the constants of `EngineConstants`. They are fitted by least squares on
    log(predicted / measured), held near their start by `prior` (a constant e times its start costs as much
    as that relative error of one measurement), so that a single measurement works too. Where each of three
    or more, predicted from the others, comes out worse than before, the hardware stays as it was.

    Args:
        measurements: at least one.
        hardware: where to start from.
        constants: which to adjust ("scale", "launch", "group", "layer_us", "step_us", "sequence_us").
        prior: how much the start is trusted, as a relative error.

    Raises:
        InvalidInput: no measurement, a constant that is not known, or times in another unit than seconds.
    """
    if not measurements:
        raise InvalidInput("measurements must hold at least one timing, but is empty.")
    known = ("scale", "launch", "group", "layer_us", "step_us", "sequence_us")
    for name in constants:
        choose("constants", name, known)
    seconds = np.asarray([m.seconds for m in measurements], float)

    with jax.enable_x64(True):
        model = _Predictor(measurements, hardware, tuple(constants), prior)
        everyone = np.ones(len(seconds))
        predicted = np.asarray(model.times(model.start))
        ask_about_units(predicted, seconds, "seconds of the timings", "seconds")
        before = np.abs(predicted / seconds - 1)
        found = model.fit(everyone)
        errors = np.abs(np.asarray(model.times(found)) / seconds - 1)
        left_out = None
        if len(seconds) >= 3:
            out = []
            for i in range(len(seconds)):
                others = everyone.copy()
                others[i] = 0.0
                out.append(abs(float(model.times(model.fit(others))[i]) / seconds[i] - 1))
            left_out = float(np.mean(out))
        # Timings that say nothing of the next one leave the hardware as it is.
        kept = left_out is not None and left_out > float(before.mean())
        adjusted = model.hardware(model.start if kept else found)
        errors = before if kept else errors
    error = float(errors.mean())
    engine = replace(
        hardware.efficiency.engine,
        **{name: float(getattr(adjusted.efficiency.engine, name)) for name in constants},
    )
    source = f"{hardware.efficiency.source}; calibrated to {len(seconds)} timings"
    stated = error if left_out is None or kept else left_out
    efficiency = replace(hardware.efficiency, engine=engine, source=source, error=(("model", stated),))
    tail = "" if left_out is None else f", {left_out:.1%} on a timing left out"
    if kept:
        tail = f": left as it was, for a timing left out would be missed by {left_out:.1%}"
    status = (
        f"{len(seconds)} timing{'' if len(seconds) == 1 else 's'} met within {error:.1%} on average{tail}."
    )
    return Calibration(
        replace(hardware, efficiency=efficiency),
        float(before.mean()),
        error,
        left_out,
        status,
    )


class _Predictor:
    """All measurements as one compiled function of the engine's constants."""

    def __init__(
        self, measurements: Sequence[Timing], hardware: Hardware, constants: tuple[str, ...], prior: float
    ) -> None:
        self._base, self._names = hardware, constants
        engine = hardware.efficiency.engine
        self.start = jnp.log(jnp.asarray([float(getattr(engine, n)) for n in constants]))
        seconds = np.asarray([m.seconds for m in measurements], float)
        groups = _alike(measurements)
        order = np.argsort(np.concatenate([rows for rows, _ in groups]))

        def times(x: jax.Array) -> jax.Array:
            adjusted = self.hardware(x)
            parts = [jnp.broadcast_to(case.predict(adjusted), (len(rows),)) for rows, case in groups]
            return jnp.concatenate(parts)[order]

        def residuals(x: jax.Array, weights: jax.Array) -> jax.Array:
            off = jnp.log(jnp.maximum(times(x), 1e-9)) - jnp.log(seconds)
            return jnp.concatenate([weights * off, prior * (x - self.start)])

        self.times = jax.jit(times)
        self.fit = _least_squares(residuals, self.start, steps=60)

    def hardware(self, x: jax.Array) -> Hardware:
        values: dict[str, Any] = {name: jnp.exp(x[i]) for i, name in enumerate(self._names)}
        efficiency = self._base.efficiency
        engine = replace(efficiency.engine, **values)
        return replace(self._base, efficiency=replace(efficiency, engine=engine))


def _alike(measurements: Sequence[Timing]) -> list[tuple[np.ndarray, Timing]]:
    """Gather timings that differ in their workloads' numbers alone, as one timing of a batch of workloads."""
    groups: dict[Any, list[int]] = {}
    for i, m in enumerate(measurements):
        key = (repr(m.shape), m.what, m.parallel, jax.tree.structure(m.workload))
        groups.setdefault(key, []).append(i)
    out = []
    for rows in groups.values():
        jobs = [measurements[i].workload for i in rows]
        stacked = jax.tree.map(lambda *values: np.asarray(values, float), *jobs)
        out.append((np.asarray(rows), replace(measurements[rows[0]], workload=stacked)))
    return out
