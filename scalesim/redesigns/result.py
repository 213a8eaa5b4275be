"""The answer to "what should we build instead?": four designs side by side, with intervals and cautions."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesim.cost.deployment import Deployment
from scalesim.cost.measure import Measure
from scalesim.data.effects import Caution
from scalesim.faces import Face, Shown, plain
from scalesim.shape import LatentAttention, Shape
from scalesim.units import format_bytes, format_context, format_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from polars import DataFrame

    from scalesim.redesigns.deciding import DecidingRuns

__all__ = ["MEASURES", "Interval", "Option", "Redesign", "signed"]

MEASURES: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "lifetime": ("$ of training and serving", "lifetime_usd", lambda v: f"${v:,.4g}"),
    "price": ("$ a million tokens", "price_usd", lambda v: f"${v:.4g}"),
    "training": ("$ of training", "training_usd", lambda v: f"${v:,.4g}"),
    "tpot": ("time per token", "tpot_s", lambda v: f"{1e3 * v:.2f} ms"),
    "ttft": ("time to first token", "ttft_s", lambda v: f"{v:.3g} s"),
    "memory": ("memory of all", "memory_bytes", format_bytes),
    "energy": ("joules a million tokens", "joules", lambda v: f"{v:.3g} J"),
    "devices": ("accelerators", "devices", lambda v: f"{v:.0f}"),
}
"""Each measure: what it is called, its key in JSON, and how a value is written."""


@dataclass(frozen=True)
class Interval:
    """A value with the 90% interval of what the evidence leaves open, and its two parts.

    Attributes:
        value: of the weighted mean of the laws.
        low, high: over samples of all laws.
        within: [low, high] over samples of each form of the law about that form's best fit.
        between: [low, high] from form to form, each at its best fit.
    """

    value: float
    low: float
    high: float
    within: tuple[float, float]
    between: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Option(Shown):
    """One of the designs of a redesign.

    Attributes:
        name: "own", "best", "safest" or "small_change".
        mixer: what its attention is: "own" as the model has it, "latent", "shared" or "linear".
        kv_bits: bits of a cached key or value.
        heads: (n_head, n_kv_head, head_dim), as the law sees them.
        shape: whole sizes.
        n_tokens: training tokens.
        training_flops: FLOPs of training.
        plan: how it is served.
        cost: by measure (`MEASURES`).
        loss_percent: predicted loss over the model's own, percent.
        equivalent_compute: how many times its training compute the model itself would need for that loss.
        savings: by measure, the share of the model's own cost that is saved at equal loss.
    """

    name: str
    mixer: str
    kv_bits: float
    heads: tuple[int, int, int]
    shape: Shape
    n_tokens: float
    training_flops: float
    plan: Deployment
    cost: dict[str, float]
    loss_percent: Interval
    equivalent_compute: Interval
    savings: dict[str, Interval]

    @property
    def n_params_total(self) -> int:
        """All parameters."""
        return int(self.shape.n_params_total)

    def _face(self) -> Face:
        rows = [("heads", self.heads_text), ("parameters", format_count(self.n_params_total))]
        rows += [("training tokens", format_count(self.n_tokens)), ("served on", str(self.plan))]
        rows += [
            (MEASURES[k][0], MEASURES[k][2](v)) for k, v in self.cost.items() if k in MEASURES and v == v
        ]
        return Face(f"{self.name.replace('_', ' ')}: loss {signed(self.loss_percent.value)}", ("", ""), rows)

    @property
    def heads_text(self) -> str:
        """The heads as people write them: `26 : 1 of 64`."""
        n_head, n_kv_head, head_dim = self.heads
        if any(isinstance(block.mixer, LatentAttention) for block in self.shape.blocks):
            return f"{n_head} of {head_dim}, latent"
        shared = {"shared": ", shared by two layers", "linear": ", in a layer of four"}.get(self.mixer, "")
        return f"{n_head} : {n_kv_head} of {head_dim}{shared}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON; intervals stand beside their values."""
        from scalesim.report.design_table import shape_json

        def interval(found: Interval) -> dict[str, Any]:
            return {k: v for k, v in plain(found).items() if k != "value"}

        return {
            "shape": shape_json(self.shape),
            "mixer": self.mixer,
            "kv_bits": self.kv_bits,
            "n_params_total": self.n_params_total,
            "n_params_active": int(self.shape.n_params_active),
            "n_tokens": self.n_tokens,
            "training_flops": self.training_flops,
            "plan": {
                "devices": self.plan.devices,
                "replicas": self.plan.replicas,
                "batch_size": self.plan.batch_size,
                **dataclasses.asdict(self.plan.parallel),
            },
            "cost": plain({MEASURES[k][1]: v for k, v in self.cost.items() if k in MEASURES} | {
                "objective": self.cost["objective"]
            }),
            "loss_percent": self.loss_percent.value,
            "loss_percent_interval": interval(self.loss_percent),
            "equivalent_compute": self.equivalent_compute.value,
            "equivalent_compute_interval": interval(self.equivalent_compute),
            "savings": plain(self.savings),
        }  # fmt: skip


@dataclass(frozen=True, repr=False)
class Redesign(Shown):
    """What to build instead of a model, at least as good by the law, and how sure that is.

    Attributes:
        model: what the model is called.
        question: what was asked, in words, by name.
        objective: what is to be small: its name, or a `Measure`.
        own: the model itself, cheapest served; None where no deployment holds it.
        best: the cheapest redesign (the model itself where nothing is saved).
        safest: the redesign of least mean regret over samples of the laws, sized to be as good in nine of ten
            of them; the model itself where that is no cheaper.
        small_change: its own sizes with other KV heads, at no more than a training run's noise of loss.
        cautions: what loss does not tell, where the best design calls for it.
        extrapolation: by which factor the best design is beyond the evidence, by field (those above 1).
        regret: the mean regret of each head configuration that was compared.
        status: what the answer is and how far it holds, in sentences.
        what_if: other contexts, batches and precisions: the best design of each, a row each.
        over_context: the best design at each context, with its savings, a row each.
    """

    model: str
    question: dict[str, Any]
    objective: str | Measure
    own: Option | None
    best: Option
    safest: Option
    small_change: Option | None
    cautions: tuple[Caution, ...]
    extrapolation: dict[str, float]
    regret: dict[str, float]
    status: str
    what_if: tuple[dict[str, Any], ...] = ()
    over_context: tuple[dict[str, Any], ...] = ()
    asked: Any = field(default=None, repr=False)

    @property
    def savings(self) -> dict[str, Interval]:
        """What the best design saves, by measure: shares of the model's own cost."""
        return self.best.savings

    @property
    def options(self) -> dict[str, Option]:
        """The designs that there are, by name."""
        named = {name: getattr(self, name) for name in ("own", "best", "safest", "small_change")}
        return {name: option for name, option in named.items() if option is not None}

    def _face(self) -> Face:
        found = self.options
        lines: list[tuple[Any, ...]] = []

        def row(label: str, text: Callable[[Option], str]) -> None:
            lines.append((label, *(text(option) for option in found.values())))

        row("heads", lambda o: o.heads_text)
        row("layers x width", lambda o: f"{o.shape.n_layer} x {o.shape.d_model}")
        row("parameters", lambda o: format_count(o.n_params_total))
        row("training tokens", lambda o: format_count(o.n_tokens))
        if len({o.kv_bits for o in found.values()}) > 1:
            row("bits of the cache", lambda o: f"{o.kv_bits:g}")
        row("served on", lambda o: str(o.plan))
        for name, (label, _, text) in MEASURES.items():
            if (
                name in found["best"].cost
                and found["best"].cost[name] == found["best"].cost[name]
                and name != "devices"
            ):
                row(label, lambda o, name=name, text=text: text(o.cost[name]))  # type: ignore[misc]
        row("predicted loss", lambda o: _percent(o.loss_percent))
        row("equivalent compute", lambda o: _times(o.equivalent_compute))
        row("saved", lambda o: _saved(o, self.objective))
        notes = [self.status, *(f"Caution: {caution}" for caution in self.cautions)]
        head = ("", *(name.replace("_", " ") for name in found))
        return Face(f"Redesign of {self.model} for {self.question['serving']}", head, lines, notes, most=30)

    def flip_text(self) -> str:
        """Say between which contexts the choice of KV heads, or of their size, changes."""
        rows = [row for row in self.over_context if row.get("saved") is not None]
        flips = [
            f"from {a['heads']} to {b['heads']} between {format_context(a['context_length'])} and "
            f"{format_context(b['context_length'])}"
            for a, b in itertools.pairwise(rows)
            if (a["n_kv_head"], a["head_dim"]) != (b["n_kv_head"], b["head_dim"])
        ]
        if flips:
            return f"The choice flips {', '.join(flips)}."
        return "The choice of KV heads and their size is the same at every context shown." if rows else ""

    def at_contexts(self, contexts: Sequence[float]) -> tuple[dict[str, Any], ...]:
        """Return the best design of the same question at other contexts, with its savings, a row each.

        Contexts that nothing can serve are left out. `over_context` holds these rows from 2K to 1M.
        """
        import jax

        from scalesim.redesigns.variations import over_contexts

        with jax.enable_x64(True):
            return over_contexts(self, tuple(int(context) for context in contexts))

    def explore(self, **how: Any) -> Any:
        """Show the question on a page beside the notebook, with sliders; see `scalesim.explore`."""
        import scalesim

        return scalesim.explore(self, **how)

    def deciding_runs(self) -> DecidingRuns | None:
        """Return three small runs that would decide it; None where nothing is saved."""
        from scalesim.redesigns.deciding import deciding_runs

        return None if self.own is None or self.best.shape == self.own.shape else deciding_runs(self)

    def plot(self) -> Figure:
        """Return a figure: savings over context with both intervals, and the choice by context."""
        from scalesim.report.redesign_figure import draw_redesign

        return draw_redesign(self)

    def report(self, *, html: bool = False) -> str:
        """Return one page that a team can discuss, in Markdown, or in HTML with the figure within."""
        from scalesim.report.redesign_page import page

        return page(self, html=html)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the best design's config.json, report.html, report.md, savings.png, grid.toml, contrasts.csv.

        Returns:
            The files written.
        """
        from scalesim.report.redesign_page import write_folder

        return write_folder(self, Path(folder))

    def to_polars(self) -> DataFrame:
        """Return a row for each design."""
        import polars as pl

        rows = []
        for name, option in self.options.items():
            flat = {f"{k}": v for k, v in option.to_dict()["cost"].items()}
            rows.append({
                "design": name, "n_head": option.heads[0], "n_kv_head": option.heads[1],
                "head_dim": option.heads[2], "n_layer": option.shape.n_layer, "d_model": option.shape.d_model,
                "n_params_total": option.n_params_total, "n_tokens": option.n_tokens,
                "loss_percent": option.loss_percent.value, **flat,
            })  # fmt: skip
        return pl.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values for JSON."""
        return {
            "model": self.model,
            "question": plain(self.question),
            "objective": self.objective if isinstance(self.objective, str) else self.objective.key,
            **dict.fromkeys(("own", "best", "safest", "small_change")),
            **{name: option.to_dict() for name, option in self.options.items()},
            "savings": plain(self.savings),
            "cautions": [str(caution) for caution in self.cautions],
            "extrapolation": plain(self.extrapolation),
            "regret": plain(self.regret),
            "what_if": plain(list(self.what_if)),
            "over_context": plain(list(self.over_context)),
            "status": self.status,
        }


def signed(percent: float) -> str:
    """Return a percentage with its sign, and 0 without.

    >>> signed(-0.004), signed(-0.34)
    ('0.00%', '-0.34%')
    """
    return "0.00%" if abs(percent) < 0.005 else f"{percent:+.2f}%"


def _percent(found: Interval) -> str:
    if found.high - found.low < 1e-6:
        return signed(found.value)
    return f"{signed(found.value)} ({found.low:+.2f} .. {found.high:+.2f})"


def _times(found: Interval) -> str:
    if found.high - found.low < 1e-6:
        return f"{found.value:.2f}x"
    return f"{found.value:.2f}x ({found.low:.2f} .. {found.high:.2f})"


def _saved(option: Option, objective: str | Measure) -> str:
    name = objective if isinstance(objective, str) else "objective"
    saved = option.savings.get(name)
    if saved is None:
        return ""
    low, high = 100 * saved.low, 100 * saved.high
    return (
        f"{100 * saved.value:.0f}% ({low:.0f} .. {high:.0f})"
        if high - low > 1e-6
        else f"{100 * saved.value:.0f}%"
    )
