import numpy as np
import pytest

import scalesim as ss
from scalesim.data import RunTable, paper_runs
from scalesim.design import next_runs
from scalesim.errors import InvalidInput
from scalesim.fitting import Squared

HELD = {"E": 1.97, "k": None, "g": None}
JOB = ss.Workload(context_length=131072.0)


def fitted(runs):
    return ss.fit(ss.HeadLaw, runs, noise=Squared(0.004), fixed=HELD)


@pytest.fixture(scope="module")
def answer():
    fit = fitted(paper_runs())
    return fit, ss.search(fit, JOB, 2.615)


@pytest.mark.slow
def test_suggestions_are_ranked_by_what_they_bring_a_flop(answer):
    ranked = next_runs(*answer)
    assert len(ranked) == 6 * 21
    gains = [s.per_flop for s in ranked]
    assert gains == sorted(gains, reverse=True)
    assert all(0 <= s.shrinks < 1 and s.flops > 0 for s in ranked)
    largest = max(ranked, key=lambda s: s.shrinks)
    assert largest.run["n_params"] == 1.6e9, "the design is larger than the data: the largest run tells most"


@pytest.mark.slow
def test_a_run_that_was_trained_brings_less_the_second_time(answer):
    fit, design = answer
    first = max(next_runs(fit, design), key=lambda s: s.shrinks)
    runs = paper_runs()
    names = ("n_params", "n_head", "n_kv_head")
    columns = {name: np.append(runs[name], first.run[name]) for name in names}
    loss = np.append(runs.loss, float(fit.law.loss({name: first.run[name] for name in names})))
    again = next_runs(fitted(RunTable(columns, loss)), design)
    second = next(s for s in again if s.run["n_params"] == 1.6e9 and s.run["n_head"] == first.run["n_head"])
    assert second.shrinks < first.shrinks
    assert max(s.shrinks for s in again) < first.shrinks


def test_a_mixture_of_forms_cannot_be_resampled(answer):
    with pytest.raises(InvalidInput, match=r"mixture of forms.* no one optimum"):
        next_runs(ss.named_fit("default"), answer[1])
