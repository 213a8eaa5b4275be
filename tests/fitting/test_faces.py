"""What a fit returns shows itself: a few lines, a table in a notebook, a figure, plain values, rows."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

import scalesim as ss
from scalesim.fitting import Squared, compare, delta_path, isoflop, leave_one_group_out, predict, profile

RUNS = ss.load_runs("paper").take(slice(0, 18))
CHINCHILLA = ss.Chinchilla()


def isoflops():
    c, n = np.meshgrid([1e19, 1e20, 1e21], np.geomspace(1e8, 2e10, 9), indexing="ij")
    x = {"n_params": n.ravel(), "n_tokens": (c / 6 / n).ravel()}
    return ss.RunTable(x, np.asarray(CHINCHILLA.loss(x)))


@pytest.fixture(scope="module")
def results():
    found = ss.fit("power", RUNS, noise=Squared(0.01), fixed={"E": 1.97}, starts=8)
    sure = ss.with_bootstrap(found, 60, starts=4)
    return {
        "fit": found,
        "sure": sure,
        "grouped": ss.fit("power", RUNS, per_group=("a",), noise=Squared(0.01), fixed={"E": 1.97}, starts=8),
        "bootstrap": sure.bootstrap,
        "prediction": predict(sure, {"n_params": np.geomspace(1e8, 1e10, 30)}),
        "bare prediction": predict(found, {"n_params": [1e9]}),
        "profile": profile(found, "b"),
        "path": delta_path(found, [0.01, 0.1]),
        "validation": leave_one_group_out(found),
        "comparison": compare(["power", "separablehead"], RUNS, noise=Squared(0.01), starts=8),
        "isoflop": isoflop(isoflops()),
        "envelope": isoflop(isoflops(), 1),
    }


NAMES = [
    "fit", "sure", "grouped", "bootstrap", "prediction", "bare prediction", "profile", "path", "validation",
    "comparison", "isoflop", "envelope",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_result_prints_as_a_few_lines_and_as_html(results, name):
    lines = repr(results[name]).splitlines()
    assert 1 <= len(lines) <= 19
    assert max(map(len, lines)) <= 160
    assert results[name]._repr_html_().startswith("<div><strong>")
    assert "nan" not in repr(results[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_plain_values_that_json_holds(results, name):
    text = json.dumps(results[name].to_dict(), allow_nan=False)
    assert len(json.loads(text)) > 1


def drawn_numbers(figure):
    """Return every number that a figure's lines, bars and areas show."""
    found = []
    for axis in figure.axes:
        found += [line.get_xydata().ravel() for line in axis.lines]
        found += [[patch.get_width(), patch.get_height()] for patch in axis.patches]
        found += [path.vertices.ravel() for c in axis.collections for path in c.get_paths()]
    return np.concatenate([np.asarray(part, float) for part in found])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "path"])
def test_a_result_draws_what_it_holds(results, name):
    result = results[name]
    figure = result.plot()
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    drawn = drawn_numbers(figure)
    shown = {
        "fit": lambda: RUNS.loss + result.residuals(),
        "sure": lambda: 1e3 * result.residuals(),
        "grouped": lambda: 1e3 * result.residuals(),
        "bootstrap": lambda: np.quantile(result.coefficients["b"], result.tail()),
        "prediction": lambda: np.concatenate([result.loss, result.low, result.run_high]),
        "bare prediction": lambda: result.loss,
        "profile": lambda: 100 * (result.objective / result.best_objective - 1),
        "validation": lambda: 1e3 * result.error,
        "comparison": lambda: [1e3 * s.held_out for s in result.scores],
        "isoflop": lambda: [p.best_n_params for p in result.profiles],
        "envelope": lambda: result.n_params_at(1e19),
    }[name]()
    for value in np.atleast_1d(shown):
        assert np.isclose(drawn, value, rtol=1e-9, atol=1e-12).any()


def test_results_of_many_rows_are_frames(results):
    frame = results["bootstrap"].to_polars()
    assert frame.shape == (60, 4)
    np.testing.assert_array_equal(frame["b"].to_numpy(), results["bootstrap"].coefficients["b"])
    assert results["prediction"].to_polars().columns == [
        "n_params",
        "loss",
        "low",
        "high",
        "run_low",
        "run_high",
    ]
    assert results["bare prediction"].to_polars().columns == ["n_params", "loss"]
    assert results["profile"].to_polars().height == 41
    assert results["validation"].to_polars().height == len(RUNS)
    assert results["comparison"].to_polars()["name"].to_list() == [
        s.name for s in results["comparison"].scores
    ]
    assert results["isoflop"].to_polars().height == 3
    grouped = ss.with_bootstrap(results["grouped"], 4, starts=4).bootstrap
    assert "a[0]" in grouped.to_polars().columns


def test_the_face_of_a_fit_says_what_is_asked_first(results):
    said = repr(results["sure"])
    assert said.startswith("PowerLaw: rms ")
    assert "over 18 runs, converged" in said
    assert "held" in said
    assert "60 resamples" in said
