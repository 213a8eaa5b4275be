import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.cost import FIGURE_1, FIGURE_2, ExpectedCost
from scalesim.families import TABLE
from scalesim.laws import Chinchilla, HeadLaw, law_from_function
from scalesim.shape import Shape
from scalesim.sweeps import Product, Stream, engine, product
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.keep import COLUMNS, FRONTIERS, Kept
from scalesim.sweeps.screen import MEASURES

LAW = HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
JOB = ss.Workload(context_length=131_072)
SPACE = Product(
    n_layer=range(8, 33),
    d_model=range(896, 4353, 64),
    d_ff=range(2304, 12033, 128),
    n_head=range(1, 21),
    n_kv_head=[1, 2, 3, 4, 8],
)


def smooth(n_params, n_head, n_kv_head, A, b, C):
    """A law of a user's own, whose sizes are counted without embeddings."""
    return 1.9 + A * (n_params / 2e8) ** -b + C / n_head + 0.02 / n_kv_head


def kinked(n_params, n_head, A, b, C):
    """Above 4e8 parameters it falls no more, and jumps at 6e8: no polynomial follows it."""
    jump = jnp.where(n_params > 6e8, C, 0.0)
    return 1.9 + A * (jnp.minimum(n_params, 4e8) / 2e8) ** -b + C / n_head - jump


RANGES = {"A": (0.3, 1.2), "b": (0.1, 0.4), "C": (0.01, 0.2)}
SMOOTH = law_from_function(smooth, RANGES, ["n_params", "n_head", "n_kv_head"])(A=0.8, b=0.2, C=0.3)
KINKED = law_from_function(kinked, RANGES, ["n_params", "n_head"])(A=0.8, b=0.2, C=0.05)
DEFAULT = ss.named_fit("default").law


@pytest.fixture
def many_blocks(monkeypatch):
    """Make a small product take many blocks and rounds, and start with a poor bar."""
    monkeypatch.setattr(product, "BLOCK_DESIGNS", 4096)
    monkeypatch.setattr(engine, "SAMPLE", 16)


def brute_force(law, sizes, workload, objective):
    """Return the measures of all designs as NumPy sees them, by the library's own functions at once."""
    shape = Shape(**{name: sizes[:, i].astype(float) for i, name in enumerate(SIZES)})
    n_params = np.asarray(ss.count_params(shape, "paper"))
    loss = np.asarray(law(shape, 20 * n_params, workload.context_length))
    reported = objective if hasattr(objective, "memory") else FIGURE_2
    memory, flops = (np.asarray(f(shape, workload).total) for f in (reported.memory, reported.flops))
    return np.stack([loss, memory, flops, np.asarray(objective(shape, workload))], axis=1)


def pareto(loss, cost, low, high, resolution):
    """Return the indices of each cell's least cost, if nothing of lower loss is as cheap."""
    cell = np.maximum(np.floor((loss - low) / resolution), 0)
    chosen, least = [], np.inf
    for i in range(round((high - low) / resolution)):
        inside = np.flatnonzero(cell == i)
        if len(inside):
            best = inside[np.lexsort((inside, loss[inside], cost[inside]))[0]]
            if cost[best] < least:
                chosen.append(best)
                least = cost[best]
    return chosen


def check(found, measures, sizes, target):
    loss, objective = measures[:, 0], measures[:, 3]
    order = np.lexsort((np.arange(len(loss)), loss, objective))
    top = order[loss[order] <= target][: len(found.kept.top)]
    kept = found.kept.top[: len(top)]
    assert kept[:, 0].tolist() == top.tolist()
    assert kept[:, 1:6].tolist() == sizes[top].tolist()
    np.testing.assert_allclose(kept[:, 6:], measures[top], rtol=1e-14)
    for measure in FRONTIERS:
        cost = measures[:, MEASURES.index(measure)]
        expected = pareto(loss, cost, target - 0.3, target + 0.3, 0.005)
        rows = found.kept.frontier(measure)
        assert rows[:, 0].tolist() == expected
        # Each is on the true frontier: nothing is as good in both and better in one.
        for i in expected[:: max(len(expected) // 10, 1)]:
            better = (loss <= loss[i]) & (cost <= cost[i]) & ((loss < loss[i]) | (cost < cost[i]))
            assert not better.any()


def cheap_depth(shape, workload):
    """An objective of a user's own, not from the catalogue."""
    return shape.n_layer * 1e3 + shape.d_ff * shape.n_kv_head + workload.context_length


@pytest.mark.parametrize(
    ("law", "objective", "target"),
    [
        (LAW, FIGURE_2, 2.6),
        (LAW, FIGURE_1, 2.7),
        (LAW, ExpectedCost(FIGURE_2, ss.ContextLengths.from_histogram([8192, 131072], [3, 1])), 2.6),
        (Chinchilla(), FIGURE_2, 2.7),
        (DEFAULT, FIGURE_2, 2.62),
        (DEFAULT, cheap_depth, 2.8),
        (SMOOTH, FIGURE_2, 2.65),
        (KINKED, FIGURE_2, 2.58),
    ],
)
def test_the_answer_is_that_of_brute_force(law, objective, target, many_blocks):
    space = Product(**{name: getattr(SPACE, name) for name in ("n_layer", *SIZES[1:])})
    sizes = space.sizes(np.arange(space.count))
    found = ss.sweep(law, space, JOB, target, objective=objective, top=25)
    assert found.designs == space.count > 15 * 4096
    check(found, brute_force(law, sizes, JOB, objective), sizes, target)


def test_ties_go_to_the_lower_loss_then_to_the_lower_index(many_blocks):
    space = Product(**{name: getattr(SPACE, name) for name in SIZES})
    sizes = space.sizes(np.arange(space.count))
    found = ss.sweep(LAW, space, JOB, 2.8, objective=cheap_depth)
    check(found, brute_force(LAW, sizes, JOB, cheap_depth), sizes, 2.8)


def test_a_stream_of_the_same_designs_gives_the_same_bits():
    sizes = SPACE.sizes(np.arange(SPACE.count))

    def designs():
        for part in np.array_split(sizes, 13):
            yield {name: part[:, i] for i, name in enumerate(SIZES)}

    streamed = ss.sweep(LAW, Stream(designs, block_designs=8192), JOB, 2.6)
    assert streamed.designs == SPACE.count
    swept = ss.sweep(LAW, SPACE, JOB, 2.6)
    assert streamed.kept.top.tobytes() == swept.kept.top.tobytes()
    for measure in FRONTIERS:
        assert streamed.kept.frontier(measure).tobytes() == swept.kept.frontier(measure).tobytes()


def test_workloads_and_plain_batches():
    jobs = [JOB, ss.Workload(context_length=8192, batch_size=4)]
    both = ss.sweep(LAW, SPACE, jobs, 2.6)
    alone = ss.sweep(LAW, SPACE, jobs[1], 2.6)
    assert both[0].designs == 2 * SPACE.count
    assert both[1].kept.top.tobytes() == alone.kept.top.tobytes()
    assert both[0].best.shape.n_head < both[1].best.shape.n_head, "a long context wants fewer heads"
    batch = {
        "n_layer": [19, 20],
        "d_model": [2624] * 2,
        "n_head": [8] * 2,
        "n_kv_head": [1] * 2,
        "d_ff": [7040] * 2,
    }
    few = ss.sweep(LAW, [batch], JOB, 2.8)
    assert (few.designs, few.best.shape.n_layer) == (2, 19)
    assert few.top["index"].to_list() == [0, 1]


def test_the_best_is_a_candidate_with_its_doubt():
    fit = ss.named_fit("paper")
    found = ss.sweep(fit, SPACE, JOB, 2.615)
    assert found.best.loss <= 2.615
    assert found.best.objective == found.kept.top[0, COLUMNS.index("objective")]
    assert found.loss_interval[0] < found.best.loss < found.loss_interval[1]
    assert "Beyond the evidence" in found.status
    design = ss.search(fit, JOB, 2.615)
    assert found.best.objective < design.best.objective * 1.02
    assert 1 / 1.1 <= found.ratios["aspect"] <= 1.1 * (1 + 1e-9)
    wide = ss.sweep(fit, Product(**{n: getattr(SPACE, n) for n in SIZES}, ffn_slack=1.01), JOB, 2.615)
    assert abs(np.log(wide.ratios["ffn"])) <= np.log(1.01) + 1e-9


def test_the_screen_moves_to_float64_where_float32_will_not_do(monkeypatch):
    def shifted(shape, workload):
        return FIGURE_2(shape, workload) * 1e36  # beyond float32's range

    found = ss.sweep(LAW, SPACE, JOB, 2.6, objective=shifted)
    plain = ss.sweep(LAW, SPACE, JOB, 2.6)
    assert found.kept.top[:, 0].tolist() == plain.kept.top[:, 0].tolist()


def test_what_is_kept_does_not_grow(many_blocks):
    kept = Kept.empty(2.6, 10, 0.3, 0.005)
    rows = np.random.default_rng(0).uniform(2.3, 2.9, (10_000, len(COLUMNS)))
    rows[:, 0] = np.arange(len(rows))
    assert kept.merged(rows).packed().nbytes == kept.packed().nbytes < 50_000
    halves = kept.merged(rows[5000:]).merged(rows[:6000])
    assert halves.packed().tobytes() == kept.merged(rows).packed().tobytes(), (
        "in any order, any number of times"
    )
    huge = ss.default_product(1e11)
    assert huge.count >= 1e11
    assert sum(part.nbytes for part in huge._pairs) < 50e6
    assert sum(values.nbytes for values in huge.block(10_000).fields.values()) < 2e6


def test_bad_arguments_say_what_would_do():
    for options, words in [
        ({"target_loss": -1.0}, "target_loss must be above 0"),
        ({"target_loss": 2.6, "top": 0}, "top must be a whole number"),
        ({"target_loss": 2.6, "span": 0.0}, "span must be above 0"),
        ({"target_loss": 2.6, "resolution": 1e-9}, "span / resolution"),
        ({"target_loss": 2.6, "family": TABLE}, "the product has 'figure'"),
    ]:
        with pytest.raises(ss.InvalidInput, match=words):
            ss.sweep(LAW, SPACE, JOB, **options)
    with pytest.raises(ss.InvalidInput, match="at least one"):
        ss.sweep(LAW, SPACE, [], 2.6)
    with pytest.raises(ss.InvalidInput, match="count must be above 0"):
        ss.sweep(LAW, -5, JOB, 2.6)
    with pytest.raises(ss.Unreachable, match=r"target_loss 1.9 is out of reach .* the least loss among them"):
        ss.sweep(LAW, SPACE, JOB, 1.9)
