"""The published laws in the number of query heads, L(n_head) = a n_head^b + c, beside our joint law.

`python -m experiments.head_laws`. The published laws were measured at other contexts (1K, 2K) than the runs
that our law has seen (8K), and with KV heads that are not published: n_kv_head = n_head is assumed. So levels
do not compare. What does is how the loss falls with heads: the drop from 2 to 32 heads, what is left of the
difference once each curve has an offset of its own, and what is left with a scale of its own as well.

Nor does the paper say what was held while heads were added. Two readings: the number of parameters (a wider
model has fewer heads), or depth and width (the model table's), where every head brings parameters with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import RESULTS, Row, print_rows, rms, shipped, write_csv
from scalesim.design.evidence import HEAD_LAWS
from scalesim.families import FIGURE
from scalesim.laws import Law
from scalesim.report.figure import INK, figure, plain_log_axis, save, shades
from scalesim.shape import count_params

__all__ = ["main"]

HEADS = np.array([2.0, 4.0, 8.0, 16.0, 32.0])


@dataclass(frozen=True)
class Published:
    """One published law, a n_head^b + c."""

    size: str
    n_params: float
    context: str
    a: float
    b: float
    c: float

    def loss(self, n_head: np.ndarray) -> np.ndarray:
        """Return a n_head^b + c."""
        return self.a * n_head**self.b + self.c


BY_SIZE = [
    Published(size, n, "1K", a, b, c)
    for size, (n, a, b, c) in zip(("470M", "680M", "1.2B"), HEAD_LAWS, strict=True)
]
BY_CONTEXT = [
    Published("470M", 4.7e8, context, a, b, 1.53)
    for context, a, b in (("1K", 1.513, -0.039), ("2K", 1.436, -0.041), ("8K", 1.356, -0.044))
]
TABLE_SIZES = {"470M": (24, 1280), "680M": (24, 1536), "1.2B": (36, 1536)}
"""Layers and width of these models in the paper's table."""

READINGS = ("parameters", "depth and width")


def ours(law: Law, published: Published, n_head: np.ndarray, held: str) -> np.ndarray:
    """Return our loss with as many KV heads as query heads, the parameters or the depth and width held."""
    n_params: Any = published.n_params
    if held == "depth and width":
        n_params = count_params(FIGURE.shape(*TABLE_SIZES[published.size], n_head, n_head), "paper")
    return np.asarray(law.loss({"n_params": n_params, "n_head": n_head, "n_kv_head": n_head}))


def main(folder: Path = RESULTS) -> list[Row]:
    law = shipped()["all evidence"]
    with jax.enable_x64(True):
        rows = [compare(published, law, held) for held in READINGS for published in (*BY_SIZE, *BY_CONTEXT)]
        write_csv(folder / "head_laws.csv", rows)
        draw(folder / "head_laws.png", law)
    print_rows("L(n_head), 2 to 32 heads (nats)", rows)
    return rows


def compare(published: Published, law: Law, held: str) -> Row:
    """Return how a published law and ours differ, over 2 to 32 heads."""
    theirs, mine = published.loss(HEADS), ours(law, published, HEADS, held)
    left, right = theirs - theirs.mean(), mine - mine.mean()
    scale = float(left @ right / (right @ right))
    return {
        "size": published.size,
        "context": published.context,
        "c": published.c,
        "held": held,
        "published_drop": theirs[0] - theirs[-1],
        "our_drop": mine[0] - mine[-1],
        "difference_of_drop": (mine[0] - mine[-1]) - (theirs[0] - theirs[-1]),
        "mean_level_ours_less_published": mine.mean() - theirs.mean(),
        "rms_offset_free": rms(right - left),
        "scale": scale,
        "rms_offset_and_scale_free": rms(scale * right - left),
    }


def draw(path: Path, law: Law) -> None:
    """Draw each law's loss about its mean over 2 to 32 heads, by size and by context."""
    from matplotlib.lines import Line2D

    n_head = np.geomspace(2, 32, 60)
    styles = {"parameters": (0, (1, 1.5)), "depth and width": (0, (4, 2))}
    with figure(1, 2, (9.5, 4.4), sharey=True) as (canvas, axes):
        for axis, group, title in zip(
            axes, (BY_SIZE, BY_CONTEXT), ("three sizes at 1K", "470M at three contexts"), strict=True
        ):
            handles: list[Any] = []
            for published, colour in zip(group, shades(len(group)), strict=True):
                theirs = 1e3 * (published.loss(n_head) - published.loss(HEADS).mean())
                label = published.size if group is BY_SIZE else published.context
                handles += axis.plot(n_head, theirs, color=colour, label=f"published, {label}")
                for held, style in styles.items():
                    mean = ours(law, published, HEADS, held).mean()
                    line = 1e3 * (ours(law, published, n_head, held) - mean)
                    axis.plot(n_head, line, color=colour, ls=style)
            for held, style in styles.items():
                handles.append(Line2D([], [], color=INK, ls=style, label=f"our law (8K), {held} held"))
            axis.legend(handles=handles, fontsize=8)
            plain_log_axis(axis, 1.9, 34.0)
            axis.set(title=title, xlabel="query heads")
        axes[0].set_ylabel("loss about its mean (millinats)")
        save(canvas, path)


if __name__ == "__main__":
    main()
