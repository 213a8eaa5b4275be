"""The fit finds what it is known to find."""

import numpy as np
import pytest

import scalesim as ss
from scalesim.fitting import Choices, Curves, Huber, Points, Squared, coefficients, load_fit
from scalesim.laws import Chinchilla, HeadLaw, PowerLaw

TRUTH = Chinchilla(A=400.0, B=2000.0, E=1.8, alpha=0.34, beta=0.37)


def simulated(rows=60, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    n = np.exp(rng.uniform(np.log(5e7), np.log(1e10), rows))
    d = np.exp(rng.uniform(np.log(1e9), np.log(3e11), rows))
    loss = np.asarray(TRUTH.loss({"n_params": n, "n_tokens": d}))
    return ss.RunTable({"n_params": n, "n_tokens": d}, loss * np.exp(noise * rng.normal(size=rows)))


def test_noiseless_runs_give_the_truth_back():
    found = ss.fit("chinchilla", simulated(), noise=Squared(1e-3))
    assert found.status == "converged"
    for name, value in coefficients(TRUTH).items():
        assert found.coefficients[name] == pytest.approx(value, rel=1e-5)


def test_one_outlier_moves_least_squares_but_not_huber():
    runs = simulated(noise=1e-4)
    spoiled_row = np.arange(60) == np.argmin(runs["n_params"])
    spoiled = ss.RunTable(runs.columns, np.where(spoiled_row, runs.loss + 0.5, runs.loss))
    robust = ss.fit("chinchilla", spoiled, noise=Huber(1e-3))
    squares = ss.fit("chinchilla", spoiled, noise=Squared())
    assert abs(robust.coefficients["alpha"] - 0.34) < 0.002
    assert abs(squares.coefficients["alpha"] - 0.34) > 0.01


def test_per_configuration_law_of_the_paper_is_its_figure():
    runs = ss.load_runs("paper").take(slice(0, 40))
    found = ss.fit(
        "power", runs, noise=Squared(), per_group=("a", "b"), by=("n_head", "n_kv_head"), fixed={"E": 1.97}
    )
    curves = ss.paper_curves()
    assert found.law.labels == tuple(
        zip(curves["n_head"].tolist(), curves["n_kv_head"].tolist(), strict=True)
    )
    np.testing.assert_allclose(found.law.law.b, curves["b"], atol=0.004)
    amplitude = (found.law.law.a / 1e8) ** found.law.law.b
    np.testing.assert_allclose(amplitude, curves["A_at_1e8"], atol=0.004)
    assert found.law.law.E == 1.97
    assert found.rms < 0.004


def test_bounds_and_priors_are_kept():
    runs = simulated(noise=1e-3)
    bounded = ss.fit("chinchilla", runs, bounds={"E": (1.9, 2.1)})
    assert 1.9 <= bounded.coefficients["E"] < 1.91
    assert bounded.status == "converged"
    assert bounded.message.endswith("On a bound: E.")
    assert np.isnan(bounded.standard_errors["E"])
    assert bounded.standard_errors["alpha"] > 0
    free = ss.fit("chinchilla", runs, noise=Squared(2e-3))
    strong = ss.fit("chinchilla", runs, noise=Squared(2e-3), priors={"alpha": (0.5, 1e-4)})
    assert abs(strong.coefficients["alpha"] - 0.5) < 1e-3
    assert abs(free.coefficients["alpha"] - 0.34) < 0.02


def test_curves_with_free_offset_teach_only_the_bend():
    heads = np.array([[2.0, 4.0, 8.0, 16.0, 32.0]])
    x = {"n_params": np.full((1, 5), 4.7e8), "n_head": heads, "n_kv_head": heads}
    truth = HeadLaw(A=0.8, b=0.2, C=0.1, F=0.02, m=5.0)
    y = np.asarray(truth.loss(x))
    for free, loss in (("none", y), ("offset", y + 0.3), ("affine", 2 * y + 0.3)):
        rows = Curves(x, loss, free=free).rows(truth, 1.0)
        assert np.abs(np.asarray(rows.residual)).max() < 1e-9
    assert np.abs(np.asarray(Curves(x, y + 0.3).rows(truth, 1.0).residual)).max() > 1


def test_choices_teach_a_coefficient_that_no_point_shows():
    # Two candidates cost log(2) + E and the constant 1: choosing the first says E < 1 - log 2.
    def costs(law, query):
        import jax.numpy as jnp

        return jnp.stack([jnp.log(2.0) + law.E - query, jnp.asarray(1.0)])

    queries = np.linspace(-0.5, 0.5, 21)
    chosen = (np.log(2.0) + 0.8 - queries > 1.0).astype(int)
    runs = ss.RunTable({"n_params": [1e8, 1e9]}, [2.0, 1.5])
    found = ss.fit(
        "power",
        [Points(runs, Squared(0.1)), Choices(queries, chosen, costs, temperature=0.02)],
        fixed={"b": 0.3},
    )
    assert found.coefficients["E"] == pytest.approx(0.8, abs=0.05)


def test_a_saved_fit_is_the_same_law(tmp_path):
    found = ss.fit("power", ss.load_runs("paper").take(slice(0, 12)), per_group=("a",), by="n_kv_head")
    found.save(tmp_path / "law.json")
    again = load_fit(tmp_path / "law.json")
    assert again.coefficients == found.coefficients
    assert again.law.labels == found.law.labels
    assert again.provenance["evidence"][0]["rows"] == 12


@pytest.mark.usefixtures("float32")
def test_the_fit_is_in_float64_whatever_the_caller_uses():
    found = ss.fit("chinchilla", simulated(), noise=Squared(1e-3))
    assert found.coefficients["alpha"] == pytest.approx(0.34, rel=1e-5)


def test_given_starts_are_all_polished():
    starts = {"alpha": np.array([0.1, 0.3]), "beta": np.array([0.9, 0.3])}
    found = ss.fit("chinchilla", simulated(noise=1e-3), starts=starts)
    assert found.starts_polished == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fixed": {"gamma": 1.0}}, "gamma"),
        ({"fixed": dict.fromkeys(("A", "B", "E", "alpha", "beta"), 0.3)}, "every coefficient is fixed"),
        ({"bounds": {"E": (2.0, 1.0)}}, "bounds of E"),
        ({"priors": {"E": (2.0, 0.0)}}, "deviation of E"),
        ({"starts": 0}, "starts must be a whole number from 1 to"),
        ({"starts": {"zeta": [1.0]}}, "zeta"),
        ({"per_group": ("E",)}, "group"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(options, says):
    with pytest.raises(ss.InvalidInput, match=says):
        ss.fit("chinchilla", simulated(), **options)


def test_an_unknown_law_and_a_missing_column_are_named():
    with pytest.raises(ss.InvalidInput, match="did you mean 'chinchilla'"):
        ss.fit("chinchila", simulated())
    with pytest.raises(ss.InvalidInput, match="n_tokens"):
        ss.fit("chinchilla", ss.RunTable({"n_params": [1e8, 2e8]}, [3.0, 2.9]))
    assert isinstance(PowerLaw(), ss.Law)
