"""What a person sees of a mixture of forms: each form, how it did where it was not fitted, what it says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.faces import Face
from scalesim.fitting.result import Fit
from scalesim.fitting.saved import law_name
from scalesim.laws.attention import Mixture
from scalesim.laws.base import Law

__all__ = ["face_of_mixture", "worth_of_kv_heads"]

MODELS = {"0.5B": (5e8, 64.0), "8B": (8e9, 128.0)}
"""Where the worth of KV heads is stated: parameters and the size of a head."""
QUERIES, MANY, FEW = 32.0, 8.0, 1.0


def worth_of_kv_heads(law: Law) -> list[Any] | None:
    """Return by how many percent the loss rises from 8 KV heads to 1, a model of `MODELS` each.

    Each has 32 query heads, 20 tokens a parameter and a context of 8,192. None where the law needs other
    fields, or sees no KV heads. A law of vector coefficients gives vectors.

    >>> from scalesim.laws import SeparableHeadLaw
    >>> [round(float(percent), 2) for percent in worth_of_kv_heads(SeparableHeadLaw(E=0.0, q=0.01))]
    [2.08, 2.08]
    """
    found = []
    for n_params, head_dim in MODELS.values():
        x = {
            "n_params": n_params,
            "n_tokens": 20 * n_params,
            "context_length": 8192.0,
            "n_head": QUERIES,
            "head_dim": head_dim,
        }
        if "n_kv_head" not in law.fields or not set(law.fields) <= {*x, "n_kv_head"}:
            return None
        few, many = (law.loss({**x, "n_kv_head": heads}) for heads in (FEW, MANY))
        found.append(100 * jnp.log(few / many))
    return found


def face_of_mixture(fit: Fit) -> Face:
    """Return a mixture's face: a row for each form, and the mixture with its 90% intervals."""
    law = fit.law
    assert isinstance(law, Mixture)
    weights = np.atleast_1d(np.asarray(law.weights, float))
    names = law.names or tuple(f"form {i + 1}" for i in range(len(weights)))
    forms = {form["name"]: form for form in fit.provenance.get("forms", ())}
    studies = fit.provenance.get("studies", ())
    with jax.enable_x64(True):
        each, mean = worth_of_kv_heads(law.law), worth_of_kv_heads(law)
        drawn = None
        if fit.bootstrap is not None and mean is not None:
            laws = jax.tree.map(jnp.asarray, fit.bootstrap.laws(law))
            drawn = np.asarray(jax.vmap(worth_of_kv_heads)(laws))
    columns = ["form", "weight"]
    if forms:
        columns += ["at home", "largest left out", "studies left out"]
    if mean is not None:
        columns += [f"KV 8 to 1, {name}" for name in MODELS]
    rows: list[tuple[Any, ...]] = []
    for i, name in enumerate(names):
        row: list[Any] = [name, float(weights[i])]
        if forms:
            own = forms.get(name, {})
            missed = [study["forms"][name] for study in studies if name in study["forms"]]
            largest = own.get("largest")
            row += [1e3 * own["home"] if "home" in own else None, None if largest is None else 1e3 * largest]
            row.append(float(np.median(missed)) if missed else None)
        if each is not None:
            row += [float(np.broadcast_to(percent, weights.shape)[i]) for percent in each]
        rows.append(tuple(row))
    whole: list[Any] = ["their mean", float(weights.sum())]
    if forms:
        own = [study["rms"] for study in studies]
        whole += [1e3 * fit.rms, None, float(np.median(own)) if own else None]
    rows.append((*whole, *map(float, mean or ())))
    if drawn is not None:
        tail = fit.resamples.tail()
        spread = np.quantile(drawn, [tail, 1 - tail], axis=1).T
        rows.append(("90%, a new corpus", *[None] * (len(whole) - 1), *map(tuple, spread.tolist())))
    return Face(_title(fit, law), tuple(columns), rows, tuple(_notes(fit, bool(forms), mean is not None)))


def _title(fit: Fit, law: Mixture) -> str:
    points = [e for e in fit.provenance.get("evidence", []) if e["kind"] == "points"]
    runs = f" over {points[0]['rows']:,} runs" if points else ""
    count = len(np.atleast_1d(law.weights))
    return f"{count} forms of {law_name(law.law)}: rms {1e3 * fit.rms:.3g} millinats{runs}, {fit.status}"


def _notes(fit: Fit, judged: bool, heads: bool) -> list[str]:
    said = [fit.message]
    for evidence in fit.provenance.get("evidence", []):
        if evidence["kind"] == "contrasts":
            rows, sources = evidence["rows"], evidence["sources"]
            said.append(f"Evidence beside the runs: {rows} comparisons of {sources} studies.")
    if judged:
        said.append(
            "At home, largest left out: rms over runs, millinats; studies left out: of the median one, %."
        )
    if heads:
        said.append(
            "KV 8 to 1: how far the loss rises from 8 KV heads to 1, %, of 32 heads of 64 and of 128."
        )
    if fit.bootstrap is not None:
        count = len(fit.bootstrap)
        said.append(f"Intervals of {count:,} samples: of a form, its constants, a corpus's own head effect.")
    return said
