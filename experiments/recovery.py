"""Do the intervals hold? Simulated runs of every law, fitted and resampled; how often 90% cover the truth.

    python -m experiments.recovery [--sets 60] [--resamples 300] [--law chinchilla ...]

Writes results/recovery.csv: for each law and coefficient, the share of simulated sets whose 90% percentile
interval covers the true value, and the median relative error. Runs are drawn over a realistic range, with
0.5% of noise in the loss. Coefficients that no set of runs could tell apart are held at their truth.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from experiments.common import RESULTS, write_csv
from scalesim import laws
from scalesim.data import RunTable
from scalesim.fit import Squared, bootstrap, coefficients, fit

NOISE = 0.005
HELD: dict[str, dict[str, None]] = {
    "ConditionalShape": dict.fromkeys(("a0", "b0", "a2", "b2", "E", "A", "B", "alpha", "beta")),
    "HeadLaw": dict.fromkeys(("k", "g")),
    "SquashedHeadLaw": dict.fromkeys(("k", "m")),
    "AdditiveHeadLaw": dict.fromkeys(("p", "q")),
    "Precision": dict.fromkeys(("activation_scale", "kv_scale")),
}

TRUTHS: dict[str, laws.Law] = {
    "PowerLaw": laws.PowerLaw(a=8e7, b=0.2, E=1.9),
    "Chinchilla": laws.Chinchilla(),
    "Kaplan": laws.Kaplan(),
    "Gemstones": laws.Gemstones(),
    "Repetition": laws.Repetition(),
    "Precision": laws.Precision(),
    "SeparableHeadLaw": laws.SeparableHeadLaw(A=0.9, b=0.2, p=0.04, q=0.02),
    "AdditiveHeadLaw": laws.AdditiveHeadLaw(A=0.8, b=0.2, C=0.15, p=0.6, F=0.06, q=0.6),
    "ScalingHeadLaw": laws.ScalingHeadLaw(A=0.9, b=0.2, p=0.04, q=0.02, r=0.03, s=0.02),
    "SquashedHeadLaw": laws.SquashedHeadLaw(A=0.7, b=0.2, C=0.1, k=3.0, F=0.05, m=2.0),
    "HeadLaw": laws.HeadLaw(A=0.8, b=0.195, C=0.1, F=0.03, m=8.0),
    "AspectRatio": laws.Chinchilla() * laws.AspectRatio(eps=0.004, g=0.7),
    "ContextPower": laws.Chinchilla() * laws.ContextPower(c=0.02),
    "ContextGrowth": laws.Chinchilla() * laws.ContextGrowth(c=0.02, h=0.004),
    "ConditionalShape": laws.Chinchilla() * laws.ConditionalShape(),
}


def simulated(law: laws.Law, rows: int, rng: np.random.Generator) -> RunTable:
    """Return runs of a law over a realistic range, with noise."""

    def spread(low: float, high: float) -> np.ndarray:
        return np.exp(rng.uniform(np.log(low), np.log(high), rows))

    x: dict[str, Any] = {
        "n_params": spread(2e7, 2e10),
        "n_tokens": spread(5e8, 1e12),
        "context_length": spread(1024, 131072),
        "n_layer": spread(4, 80),
        "d_model": spread(256, 8192),
        "d_ff": spread(512, 30000),
        "head_dim": np.full(rows, 64.0),
        "n_epochs": spread(1, 60),
        "weight_bits": rng.choice([2.0, 3.0, 4.0, 6.0, 8.0, 16.0], rows),
        "activation_bits": rng.choice([3.0, 4.0, 6.0, 8.0, 16.0], rows),
        "kv_bits": rng.choice([2.0, 4.0, 8.0, 16.0], rows),
    }
    x["n_head"] = rng.choice([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], rows)
    x["n_kv_head"] = np.minimum(x["n_head"], rng.choice([1.0, 2.0, 4.0, 8.0, 16.0], rows))
    x = {name: x[name] for name in law.fields}
    loss = np.asarray(law.loss(x), float)
    return RunTable(x, loss * np.exp(NOISE * rng.normal(size=rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=60)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--rows", type=int, default=180)
    parser.add_argument("--law", nargs="*", default=list(TRUTHS))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    lines = []
    for name in options.law:
        truth = TRUTHS[name]
        fixed: dict[str, float | None] = dict(HELD.get(name, {}))
        hits: dict[str, list[bool]] = {}
        errors: dict[str, list[float]] = {}
        for _ in range(options.sets):
            runs = simulated(truth, options.rows, rng)
            found = fit(truth, runs, noise=Squared(NOISE, space="log"), fixed=fixed)
            spread = bootstrap(found, options.resamples, seed=int(rng.integers(2**31)))
            intervals = spread.intervals(0.9)
            for key, value in coefficients(truth).items():
                if key.rpartition(".")[2] in fixed:
                    continue
                low, high = intervals[key]
                hits.setdefault(key, []).append(low <= value <= high)
                errors.setdefault(key, []).append(abs(found.coefficients[key] / value - 1))
        for key, held in hits.items():
            lines.append([name, key, np.mean(held), np.median(errors[key])])
        overall = np.mean([np.mean(h) for h in hits.values()])
        lines.append([name, "all", overall, None])
        print(
            f"{name:<18} 90% intervals cover {overall:.1%}: "
            + ", ".join(f"{k} {np.mean(h):.0%}" for k, h in hits.items()),
            flush=True,
        )
    names = ("law", "coefficient", "coverage", "median_relative_error")
    write_csv(RESULTS / "recovery.csv", [dict(zip(names, line, strict=True)) for line in lines])


if __name__ == "__main__":
    main()
