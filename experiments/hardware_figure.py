"""Draw predicted against measured times: kernels as shipped, whole models that took no part in the fit.

    python -m experiments.hardware_figure

Writes results/hardware_constants.png.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments import hardware_constants as measured
from experiments.common import RESULTS
from scalesim.cost.fitting import kernel_seconds, part
from scalesim.efficiency import measured_efficiency
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, save

COLOURS = {"a100": BASELINE, "h100": BEST}
SHOWN = 1500  # points a panel and accelerator: more only thicken the cloud


def kernel(kind: str, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Measured and predicted seconds of a random part of the measurements."""
    table = measured.kernel_rows(kind, device)
    rows = np.random.default_rng(0).permutation(len(table["seconds"]))[:SHOWN]
    some = part(table, rows)
    constants = getattr(measured_efficiency(device), kind)
    return some["seconds"], np.asarray(kernel_seconds(kind, some, measured.on(device), constants))


def models(device: str) -> tuple[np.ndarray, np.ndarray]:
    """Measured and predicted seconds of generations by models that took no part in the fit."""
    cases = measured.timings(device, measured.HELD_OUT[device])
    hardware = measured.machine(device, measured_efficiency(device))
    return np.asarray([case.seconds for case in cases]), measured.predict(cases, hardware)


def draw(axis: Any, title: str, points: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for device, (seconds, predicted) in points.items():
        error = np.abs(predicted / seconds - 1)
        label = f"{device.upper()}: mean {error.mean():.1%}, median {np.median(error):.1%}"
        size = 3 if len(seconds) > 200 else 16
        axis.scatter(
            seconds, predicted / seconds, s=size, color=COLOURS[device], alpha=0.5, lw=0, label=label
        )
    for level, style in ((1.0, "-"), (0.9, ":"), (1.1, ":")):
        axis.axhline(level, color=FAINT, lw=1, ls=style, zorder=0)
    axis.set_xscale("log")
    axis.set_ylim(0.4, 1.6)
    axis.set_title(title)
    axis.set_xlabel("measured, seconds")
    axis.legend(fontsize=7, loc="upper right")


def main() -> None:
    titles = {"gemm": "matrix products", "decode": "decode attention", "prefill": "prefill attention"}
    with jax.enable_x64(True), figure(1, 4, size=(14.0, 3.6), sharey=True) as (canvas, axes):
        for axis, (kind, title) in zip(axes, titles.items(), strict=False):
            draw(axis, title, {device: kernel(kind, device) for device in COLOURS})
        draw(axes[3], "7B models on vLLM, left out", {device: models(device) for device in COLOURS})
        axes[0].set_ylabel("predicted / measured")
        save(canvas, RESULTS / "hardware_constants.png")


if __name__ == "__main__":
    main()
