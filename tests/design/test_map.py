import numpy as np
import pytest

import scalesim as ss
from scalesim.cost import max_params
from scalesim.design import PAPER, design_map, distribution
from scalesim.errors import InvalidInput, Unreachable
from scalesim.report.map_figure import pole

FIT = ss.named_fit("paper")
JOB = ss.Workload(context_length=8192, batch_size=2)
CONTEXTS, LOSSES = [8192.0, 32768.0, 131072.0], [2.55, 2.7, 2.9]


@pytest.fixture(scope="module")
def found():
    return design_map(FIT, JOB, CONTEXTS, LOSSES, resamples=40)


def test_each_point_is_what_search_finds(found):
    for i, loss in enumerate(LOSSES):
        for j, context in enumerate(CONTEXTS):
            job = ss.Workload(context_length=context, batch_size=2)
            best = ss.search(FIT, job, loss, lattice=PAPER).best
            heads = (int(best.shape.n_head), int(best.shape.n_kv_head))
            assert found.lattice.heads[found.index[i, j]] == heads
            assert found.cost[i, j] == pytest.approx(best.objective)
            assert found.n_params[i, j] == pytest.approx(best.n_params, rel=1e-6)


def test_agreement_is_the_share_of_laws_that_choose_the_same(found):
    job = ss.Workload(context_length=131072, batch_size=2)
    doubt = distribution(FIT, ss.search(FIT, job, 2.55, lattice=PAPER), resamples=40)
    assert found.agreement[0, 2] == pytest.approx(doubt.probability[doubt.chosen])


def test_regions_cover_the_map(found):
    assert sum(region.share for region in found.regions) == pytest.approx(1)
    shares = [region.share for region in found.regions]
    assert shares == sorted(shares, reverse=True)
    first = found.regions[0]
    here = found.index == PAPER.heads.index((first.n_head, first.n_kv_head))
    assert first.share == here.mean()
    assert first.contexts == (np.array(CONTEXTS)[here.any(0)].min(), np.array(CONTEXTS)[here.any(0)].max())


def test_out_of_reach_is_nowhere():
    small = design_map(FIT, JOB, CONTEXTS, LOSSES, constraints=[max_params(8e8)])
    assert (small.index[0] == -1).all()
    assert np.isnan(small.cost[0]).all()
    assert (small.index[2] >= 0).all()
    with pytest.raises(Unreachable, match="no design of the paper lattice"):
        design_map(FIT, JOB, CONTEXTS, LOSSES, constraints=[max_params(1e7)])


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        (([8192.0], LOSSES), "contexts must be at least two"),
        ((CONTEXTS, [2.8, 2.6]), "losses must be at least two positive rising"),
        ((CONTEXTS, [np.nan, 2.6]), "losses must be"),
    ],
)
def test_wrong_axes_get_a_sentence(axes, says):
    with pytest.raises(InvalidInput, match=says):
        design_map(FIT, JOB, *axes)
    with pytest.raises(InvalidInput, match="resamples needs a fit"):
        design_map(FIT.law, JOB, CONTEXTS, LOSSES, resamples=5)


def test_a_name_stands_inside_its_region():
    ring = np.zeros((20, 40), bool)
    ring[2:8, 3:37] = True
    ring[2:18, 3:9] = True
    row, column = pole(ring)
    assert ring[row - 2 : row + 3, column - 2 : column + 3].all()
    one = np.zeros((5, 5), bool)
    one[0, 4] = True
    assert pole(one) == (0, 4)
