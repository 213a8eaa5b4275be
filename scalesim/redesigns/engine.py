"""How a redesign is found: every head configuration at the size that keeps the loss, on every deployment.

Sizes are roots of the law along the model's own proportions (`Proportions`), found for a batch of laws and
heads in one compiled call; costs are those of `scalesim.cost.deployment`. What is chosen among them is plain
NumPy. Nothing is left to a gradient but the roots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from scalesim.cost.capacity import usable_bytes
from scalesim.cost.deployment import Deployment, deployments, divides, served, value_of, within
from scalesim.cost.training import training_flops, training_price
from scalesim.laws import Precision
from scalesim.redesigns import resizing
from scalesim.redesigns.candidates import (
    Built,
    Question,
    Ranked,
    fields_of_heads,
    lattice,
    rows_of,
    systematic,
)
from scalesim.redesigns.ensemble import NOISE, Ensemble
from scalesim.redesigns.proportions import Heads, Proportions, heads_of, is_latent, visited, with_mixer
from scalesim.redesigns.resizing import Laws
from scalesim.shape import Shape

__all__ = ["Engine"]

_NEAR = 20  # head configurations that are built as whole sizes, and as many that fit with room to spare
_SAMPLES, _SURE = 24, 0.9  # samples for regret; the share of samples that a safe design must be as good in
_ROOM = 0.02  # of memory and time: what rounding to whole sizes may take
_CLOSE = 0.005  # of the objective: how near to the best of all candidates a search ends
_OVER = 0.005  # of the training budget: what a relaxed shape may be beyond it, where its whole one is not
_TRIED = np.array([(o, more) for o in range(-2, 3) for more in (0.0, 0.002, 0.006)])  # widths, log scales


class Engine:
    """What one question's candidates share: the model's proportions, laws, ways to serve and own figures."""

    def __init__(self, asked: Question, laws: Ensemble, kv_bits: float | None = None) -> None:
        self.asked = asked
        self.kv_bits = float(asked.workload.kv_bits if kv_bits is None else kv_bits)
        self.job = asked.workload if kv_bits is None else dataclasses.replace(asked.workload, kv_bits=kv_bits)
        self.own_heads = heads_of(asked.shape)
        self.trained_at = float(asked.plan.context_length)
        self.own_params = float(visited(asked.shape))
        self.own_tokens = float(asked.plan.tokens(asked.shape))
        self.budget = float(
            training_flops(asked.shape, dataclasses.replace(asked.plan, n_tokens=self.own_tokens))
        )
        self.tokens = self.own_tokens if asked.spend == "tokens" else 0.0
        self.x = {"n_params": self.own_params, "n_tokens": self.own_tokens, **fields_of_heads(self.own_heads)}
        self.ensemble = laws if kv_bits is None else laws.moved(self._precision())
        self.own_losses = np.asarray(resizing.losses(laws.every, self.x))
        """Of the model itself, under each law and then each draw."""

    def _precision(self) -> float:
        """Return the log effect of this cache's precision over the asked one's, by arXiv 2411.04330."""
        size = {"n_params": self.own_params, "n_tokens": self.own_tokens, "weight_bits": 16.0}
        both = (self.kv_bits, float(self.asked.workload.kv_bits))
        mine, asked = (float(Precision().loss({**size, "activation_bits": 16.0, "kv_bits": b})) for b in both)
        return float(np.log(mine / asked))

    def mixture(self, n: int) -> Laws:
        """Return the weighted mean of all laws, n times."""
        return self.ensemble.mixture(self.own_losses, n)

    def single(self, which: np.ndarray) -> Laws:
        """Return one of `Ensemble.every` for each row."""
        return self.ensemble.each(self.own_losses, which)

    @cached_property
    def draws(self) -> np.ndarray:
        """Where the draws stand in `Ensemble.every`."""
        return self.ensemble.split(np.arange(len(self.own_losses)))[1]

    @cached_property
    def kinds(self) -> dict[str, Proportions]:
        """The model's proportions with each kind of mixer."""
        return {kind: Proportions.of(with_mixer(self.asked.shape, kind)) for kind in self.asked.mixers}

    def ways(self, shape: Shape) -> list[Deployment]:
        """Return the deployments looked at."""
        return deployments(shape, float(self.asked.workload.batch_size), self.asked.hardware)

    def costs(
        self, shapes: Shape, ways: Sequence[Deployment], which: np.ndarray, flops: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the figures of pairs of a shape and a way, with the objective of the question."""
        a = self.asked
        found = served(shapes, ways, which, self.job, a.hardware, a.contexts)
        if a.hardware.price_typical is not None:
            found["training"] = flops * self.dollars_a_flop
            found["price"] = value_of("price", found, a.hardware)
            if a.traffic is not None:
                dollars = float(a.hardware.price_typical) / 3600
                found["lifetime"] = found["training"] + dollars * (
                    float(a.traffic.prompt_tokens) * found["prompt"]
                    + float(a.traffic.generated_tokens) * found["generated"]
                )
        if a.hardware.power_w is not None:
            found["energy"] = value_of("energy", found, a.hardware)
        found["memory"] = found["held"]
        if isinstance(a.objective, str):
            found["objective"] = found[a.objective]
        else:
            plan = dataclasses.replace(a.plan, n_tokens=self.own_tokens)
            found["objective"] = np.broadcast_to(
                np.asarray(a.objective(shapes, self.job, plan), float), which.shape
            )
        return found

    @cached_property
    def dollars_a_flop(self) -> float:
        """Typical $ of a FLOP of training on the hardware, for a model of this kind."""
        plan = dataclasses.replace(self.asked.plan, n_tokens=self.own_tokens)
        return float(training_price(self.asked.shape, plan, self.asked.hardware).typical) / self.budget

    def allowed(self, figures: dict[str, np.ndarray], room: float = 0.0) -> np.ndarray:
        """Say which pairs fit in memory, with some `room` to spare, and keep the limits so too."""
        a = self.asked
        tpot, ttft = (None if most is None else most * (1 - room) for most in (a.max_tpot, a.max_ttft))
        fits = figures["device"] <= (1 - room) * float(usable_bytes(a.hardware))
        return within(figures, tpot, ttft, a.max_devices) & fits

    def paired(
        self, shapes: Shape, heads: Heads, flops: np.ndarray, *, whole: bool
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], list[Deployment]]:
        """Return every pair of a shape and a way that divides it: which shape, which way, and figures."""
        ways = self.ways(self.asked.shape)
        n = len(flops)
        d_ff = np.asarray(shapes.d_ff) * np.ones(n) if whole else np.zeros(n)
        depth = np.asarray(shapes.n_layer) * np.ones(n)
        # A latent cache has no heads that must divide: every accelerator holds all of it.
        keys = np.ones(n) if is_latent(shapes) else heads.n_kv_head
        split = np.stack([divides(w.parallel, heads.n_head, keys, d_ff, depth) for w in ways], 1)
        rows, which = np.nonzero(split)
        spread = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (n,))[rows], shapes)
        return rows, which, self.costs(spread, ways, which, flops[rows]), ways

    @staticmethod
    def least(rows: np.ndarray, figures: dict[str, np.ndarray], allowed: np.ndarray, n: int) -> np.ndarray:
        """Return, for each of n shapes, which pair is its cheapest (-1: none); ties to fewer devices."""
        value = np.where(allowed, figures["objective"], np.inf)
        best = np.full(n, -1)
        order = np.lexsort((figures["devices"], value))[::-1]
        keep = order[np.isfinite(value[order])]
        best[rows[keep]] = keep  # the cheapest is written last
        return best

    # The candidates of one kind of mixer.

    def table(self, kind: str) -> tuple[Heads, np.ndarray]:
        """Return the head configurations of a kind, (K,), and the share of the budget that each may spend."""
        rows = np.array(lattice(with_mixer(self.asked.shape, kind), self.asked.min_kv_heads), float)
        shares = np.array([1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1] if self.asked.spend == "free" else [1.0])
        index, share = np.divmod(np.arange(len(rows) * len(shares)), len(shares))
        return Heads(*rows[index].T), shares[share]

    def effect(self, kind: str) -> float:
        """Return the mean log effect of a kind of mixer."""
        return self.ensemble.effects[kind][0]

    def scales(self, kind: str, laws: Any, heads: Heads, effect: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Return the log scale that keeps the loss, nan where none within bounds does."""
        goal = 1.0 + self.asked.loss
        batched = (laws, heads, effect, share * self.budget)
        u = resizing.in_batches(
            resizing.scales, (self.kinds[kind],), batched, (self.tokens, self.trained_at, goal)
        )
        inside = (u > resizing.SMALLEST + 1e-6) & (u < resizing.LARGEST - 1e-6)
        return np.where(inside, u, np.nan)

    def relaxed(
        self, props: Proportions, u: np.ndarray, heads: Heads, spend: np.ndarray
    ) -> tuple[Shape, np.ndarray]:
        """Return relaxed shapes and the FLOPs of their training."""
        return resizing.in_batches(
            resizing.relaxed, (props,), (u, heads, spend), (self.tokens, self.trained_at)
        )

    def paid(self, flops: np.ndarray, share: np.ndarray, over: float = 0.001) -> np.ndarray:
        """Say which designs keep the training budget: where few tokens are left, the floor exceeds it."""
        return (flops <= share * self.budget * (1 + over)) | (self.asked.spend == "tokens")

    def judged(
        self, shapes: Shape, laws: Any, heads: Heads, effect: np.ndarray, share: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return relative losses, tokens and FLOPs of whole shapes."""
        batched = (shapes, laws, heads, effect, share * self.budget)
        return resizing.in_batches(resizing.judged, (), batched, (self.tokens, self.trained_at))

    def ranked(self, kind: str) -> Ranked:
        """Return all candidates of a kind, relaxed."""
        heads, share = self.table(kind)
        n = len(share)
        u = self.scales(kind, self.mixture(n), heads, np.full(n, self.effect(kind)), share)
        value, spare = self.relaxed_values(kind, u, heads, share)
        return Ranked(heads, share, u, value, spare)

    def relaxed_values(
        self, kind: str, u: np.ndarray, heads: Heads, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the least objective of relaxed shapes over all deployments, and of those with room to spare.

        Infinite where none will do.
        """
        values = np.full((2, len(u)), np.inf)
        real = np.flatnonzero(np.isfinite(u))
        if real.size:
            some = rows_of(heads, real)
            shapes, flops = self.relaxed(self.kinds[kind], u[real], some, share[real] * self.budget)
            rows, _, figures, _ = self.paired(shapes, some, flops, whole=False)
            # A whole shape may keep a budget that its relaxed one is just beyond: the first reading lets it.
            for value, room, over in zip(values, (0.0, _ROOM), (_OVER, 0.001), strict=True):
                paid = self.paid(flops, share[real], over)[rows]
                best = self.least(rows, figures, self.allowed(figures, room) & paid, len(real))
                has = best >= 0
                value[real[has]] = figures["objective"][best[has]]
        return values[0], values[1]

    def built(
        self, kind: str, u: np.ndarray, heads: Heads, share: np.ndarray, *, strict: bool = True
    ) -> Built | None:
        """Return the cheapest whole design among candidates, each tried at five widths and three sizes.

        A whole shape may cost more FLOPs a token than the relaxed one, and so get fewer tokens of the same
        budget: the next sizes make up for it.
        """
        if not len(u):
            return None
        index, tried = np.divmod(np.arange(len(u) * len(_TRIED)), len(_TRIED))
        heads, share, u = rows_of(heads, index), share[index], u[index] + _TRIED[tried, 1]
        shapes = resizing.in_batches(resizing.whole, (self.kinds[kind],), (u, heads, _TRIED[tried, 0]))
        judged = self.judged(shapes, self.mixture(len(u)), heads, np.full(len(u), self.effect(kind)), share)
        good = judged["loss"] <= 1 + self.asked.loss + 1e-9 if strict else np.ones(len(u), bool)
        good &= self.paid(judged["flops"], share)
        rows, which, figures, ways = self.paired(shapes, heads, judged["flops"], whole=True)
        best = self.least(rows, figures, self.allowed(figures) & good[rows], len(u))
        if not (best >= 0).any():
            return None
        pair = min(best[best >= 0], key=lambda i: figures["objective"][i])
        row = rows[pair]
        at = {name: float(values[pair]) for name, values in figures.items()}
        at |= {name: float(judged[name][row]) for name in ("loss", "n_params", "n_tokens")}
        at["training_flops"] = float(judged["flops"][row])
        return Built(
            kind,
            rows_of(heads, row),
            rows_of(shapes, row),
            ways[which[pair]],
            at,
            float(u[row]),
            float(share[row]),
        )

    # What is answered.

    def prepare(self) -> None:
        """Make the programs that `own` does not need: compiled beside it, they are ready when it is."""
        kind, props = next(iter(self.kinds.items()))
        heads = jax.tree.map(lambda v: np.array([float(v)]), self.own_heads)
        one = np.ones(1)
        self.scales(kind, self.mixture(1), heads, one, one)
        resizing.in_batches(resizing.whole, (props,), (one, heads, one))
        self.compute_factors(np.ones_like(self.own_losses))

    @cached_property
    def own(self) -> Built | None:
        """The model itself, cheapest served; None where nothing serves it."""
        return self.with_kv_heads[self.own_heads.n_kv_head]

    @cached_property
    def with_kv_heads(self) -> dict[float, Built | None]:
        """The model's own sizes and tokens by its number of KV heads, cheapest served; None: nowhere."""
        own = self.own_heads
        n_head = 0 if is_latent(self.asked.shape) else int(own.n_head)
        counts = sorted({own.n_kv_head, *(k for k in range(1, n_head + 1) if n_head % k == 0)})
        n = len(counts)
        heads = Heads(*(np.full(n, float(v)) for v in (own.n_head, 1, own.head_dim)))
        heads = dataclasses.replace(heads, n_kv_head=np.array(counts, float))
        spend = np.full(n, self.budget)
        shapes, _ = self.relaxed(Proportions.of(self.asked.shape), np.zeros(n), heads, spend)
        batched = (shapes, self.mixture(n), heads, np.full(n, self.effect("own")), spend)
        judged = resizing.in_batches(resizing.judged, (), batched, (self.own_tokens, self.trained_at))
        rows, which, figures, ways = self.paired(shapes, heads, judged["flops"], whole=True)
        found: dict[float, Built | None] = dict.fromkeys(counts)
        for i, best in enumerate(self.least(rows, figures, self.allowed(figures), n)):
            if best >= 0:
                at = {name: float(values[best]) for name, values in figures.items()}
                at |= {name: float(judged[name][i]) for name in ("loss", "n_params", "n_tokens")}
                at["training_flops"] = float(judged["flops"][i])
                kept = dataclasses.replace(own, n_kv_head=counts[i])
                found[counts[i]] = Built("own", kept, rows_of(shapes, i), ways[which[best]], at, None)
        return found

    @cached_property
    def all_ranked(self) -> dict[str, Ranked]:
        """Every candidate of every kind."""
        return {kind: self.ranked(kind) for kind in self.kinds}

    def best(self) -> Built | None:
        """Return the cheapest redesign.

        Candidates are built in the order of what they cost relaxed, until none that is left could be half a
        per cent cheaper than the cheapest that was built: near a limit many cannot be built at all.
        """
        best: Built | None = None
        for kind, r in self.all_ranked.items():
            some, order = r.near(_NEAR), np.argsort(r.value)
            rest = order[np.isfinite(r.value[order]) & ~np.isin(order, some)]
            while some.size:
                found = self.built(kind, r.scale[some], rows_of(r.heads, some), r.share[some])
                both = [f for f in (best, found) if f is not None]
                best = min(both, key=lambda f: f.figures["objective"], default=None)
                limit = np.inf if best is None else best.figures["objective"] * (1 - _CLOSE)
                some, rest = rest[:_NEAR], rest[_NEAR:]
                some = some[r.value[some] < limit]
        return best

    def safest(self) -> tuple[Built | None, dict[str, float]]:
        """Return the design of least mean regret over samples of the laws, as good as asked in nine of ten.

        Under each sample every candidate is brought to the loss anew; its regret is what it then costs over
        the cheapest candidate under that sample. Also returned: the mean regret of each head configuration.
        """
        some = systematic(self.ensemble.importance, _SAMPLES)
        rows = []
        for kind, r in self.all_ranked.items():
            near = r.near(_NEAR // 2, each_kv=True)
            if not near.size:
                continue
            k, draw = (part.ravel() for part in np.meshgrid(near, some, indexing="ij"))
            u = self.scales(kind, self.single(self.draws[draw]), rows_of(r.heads, k),
                            self.ensemble.effects[kind][1][draw], r.share[k])  # fmt: skip
            cost = self.relaxed_values(kind, u, rows_of(r.heads, k), r.share[k])[0].reshape(-1, len(some))
            rows += [(kind, i, cost[j]) for j, i in enumerate(near)]
        if not rows:
            return None, {}
        costs = np.stack([row[2] for row in rows])
        # Where a sample has no answer at all, no candidate is better than another; else none is worst.
        costs = costs[:, np.isfinite(costs).any(0)]
        dearest = np.where(np.isfinite(costs), costs, -np.inf).max(0)
        regret = (np.where(np.isfinite(costs), costs, 2 * dearest) / costs.min(0) - 1).mean(1)
        named = {}
        for (kind, i, _), value in zip(rows, regret, strict=True):
            h = rows_of(self.all_ranked[kind].heads, i)
            named[f"{kind} {int(h.n_head)}:{int(h.n_kv_head)}x{int(h.head_dim)}"] = float(value)
        for place in np.argsort(regret):
            found = self._sure(*rows[place][:2])
            if found is not None:
                return found, named
        return None, named

    def _sure(self, kind: str, place: int) -> Built | None:
        """Return a candidate at the size that is as good as asked in nine of ten samples."""
        r, laws = self.all_ranked[kind], self.ensemble
        every = np.arange(len(laws.member))
        heads = jax.tree.map(lambda v: np.full(len(every), float(v)), rows_of(r.heads, place))
        share = np.full(len(every), r.share[place])
        u = self.scales(kind, self.single(self.draws), heads, laws.effects[kind][1], share)
        u = np.where(np.isnan(u), np.inf, u)
        order = np.argsort(u)
        nine = u[order][np.searchsorted(np.cumsum(laws.importance[order]), _SURE)]
        if not np.isfinite(nine):
            return None
        return self.built(kind, np.array([nine]), rows_of(r.heads, [place]), r.share[[place]])

    def small_change(self) -> Built | None:
        """Return the cheapest change of KV heads alone that costs no more loss than a run's noise."""
        if is_latent(self.asked.shape):
            return None
        most = 1 + max(self.asked.loss, 0.0) + NOISE
        wide = [f for k, f in self.with_kv_heads.items() if k >= self.asked.min_kv_heads]
        good = [f for f in wide if f is not None and f.figures["loss"] <= most]
        return min(good, key=lambda f: f.figures["objective"], default=None)

    def resized(self, found: Built) -> dict[str, np.ndarray]:
        """Return a design's figures, brought to the loss anew under each law and draw, served as it is."""
        n = len(self.own_losses)
        heads = jax.tree.map(lambda v: np.full(n, float(v)), found.heads)
        share = np.full(n, found.share)
        laws = self.single(np.arange(n))
        u = self.scales(found.mixer, laws, heads, self.ensemble.effect(found.mixer), share)
        u = np.where(np.isnan(u), resizing.LARGEST, u)
        shapes, flops = self.relaxed(self.kinds[found.mixer], u, heads, share * self.budget)
        return self.costs(shapes, [found.way], np.zeros(n, int), flops)

    def losses(self, found: Built) -> np.ndarray:
        """Return a design's loss over the model's own under each law and draw, at its own sizes."""
        tokens = found.figures["n_tokens"]
        x = {"n_params": found.figures["n_params"], "n_tokens": tokens, **fields_of_heads(found.heads)}
        each = np.asarray(resizing.losses(self.ensemble.every, x))
        return each * np.exp(self.ensemble.effect(found.mixer)) / self.own_losses

    def compute_factors(self, relative: np.ndarray) -> np.ndarray:
        """Return how many times the model's training compute has a relative loss, under each law and draw.

        Parameters and tokens both grow with the root of the compute.
        """
        losses = self.own_losses * relative
        return np.exp(np.asarray(resizing.compute_factors(self.ensemble.every, losses, self.x)))
