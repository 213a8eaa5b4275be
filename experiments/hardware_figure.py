"""Draw predicted over measured times of the kernels that took no part in the fit, by kind and card.

    python -m experiments.hardware_figure

Writes results/hardware_constants.png.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from experiments.common import RESULTS
from experiments.hardware_constants import CARDS, ratios, tables
from scalesim.cost.fitting import halves, part
from scalesim.cost.kernel_forms import machine_of
from scalesim.cost.kernel_score import constants_of
from scalesim.hardware import load_hardware
from scalesim.report.figure import BASELINE, BEST, FAINT, figure, save

SHOWN = {"h200": BEST, "b200": BASELINE, "l40s": "#8a8a8a"}
PANELS = {
    "products, BF16": ("gemm", "bf16"),
    "products, FP8": ("gemm", "fp8"),
    "decode attention": ("decode", "bf16"),
    "prompt attention": ("prefill", "bf16"),
    "experts, BF16": ("experts", "bf16"),
    "latent attention, a token": ("latent decode", "bf16/bf16"),
    "delta rule, a prompt": ("delta rule", ""),
    "all-reduce": ("all-reduce", ""),
}
MOST = 600  # points a panel and card: more only thicken the cloud

Points = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]


def points(card: str) -> Points:
    """Measured seconds, and predicted over measured, of the scored half of every table."""
    hardware, found = load_hardware(CARDS[card]), {}
    for kind, format, table in tables(card):
        if (kind, format) in PANELS.values():
            scored = halves(table)[1]
            some = part(scored, np.random.default_rng(0).permutation(len(scored["seconds"]))[:MOST])
            constants = constants_of(hardware.efficiency, kind, format)
            off = ratios(kind, some, machine_of(hardware, kind, format), constants)
            found[kind, format] = some["seconds"], off
    return found


def draw(axis: Any, title: str, where: tuple[str, str], cards: dict[str, Points]) -> None:
    """One kind of kernel on every card that has a table of it."""
    for card, found in cards.items():
        if where not in found:
            continue
        seconds, off = found[where]
        label = f"{card.upper()}: mean {np.abs(off - 1).mean():.0%}"
        axis.scatter(seconds, off, s=4, color=SHOWN[card], alpha=0.45, lw=0, label=label)
    for level, style in ((1.0, "-"), (0.9, ":"), (1.1, ":")):
        axis.axhline(level, color=FAINT, lw=1, ls=style, zorder=0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(0.3, 3.0)
    axis.set_yticks([0.5, 1.0, 2.0], ["0.5", "1", "2"])
    axis.minorticks_off()
    axis.set_title(title)
    axis.legend(fontsize=7, loc="upper right")


def main() -> None:
    with jax.enable_x64(True), figure(2, 4, size=(14.0, 6.4), sharey=True) as (canvas, axes):
        cards = {card: points(card) for card in SHOWN}
        for axis, (title, where) in zip(axes.flat, PANELS.items(), strict=True):
            draw(axis, title, where, cards)
        for axis in axes[1]:
            axis.set_xlabel("measured, seconds")
        for axis in axes[:, 0]:
            axis.set_ylabel("predicted / measured")
        save(canvas, RESULTS / "hardware_constants.png")


if __name__ == "__main__":
    main()
