"""What cannot be fitted is said to be so: a sentence and a status, never a confident wrong answer."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scalesim as ss
from scalesim.fitting import Points, Squared, bootstrap, leave_one_group_out
from scalesim.laws import Chinchilla, law_from_function
from scalesim.numerics.least_squares import levenberg_marquardt

RNG = np.random.default_rng(0)
N, D = np.exp(RNG.uniform(17, 23, 50)), np.exp(RNG.uniform(21, 26, 50))
LOSS = np.asarray(Chinchilla().loss({"n_params": N, "n_tokens": D})) * np.exp(0.003 * RNG.normal(size=50))


def table(n=N, d=D, loss=LOSS, **more):
    return ss.RunTable({"n_params": n, "n_tokens": d}, loss, **more)


def test_too_few_rows():
    found = ss.fit("chinchilla", table().take(slice(0, 5)))
    assert found.status == "unidentified"
    assert "5 rows cannot determine 5 coefficients; 6 is the least" in found.message
    with pytest.raises(ss.Unreachable, match="cannot determine"):
        ss.fit("chinchilla", table().take(slice(0, 5)), throw=True)


def test_all_runs_at_one_size_of_data(tmp_path):
    at_one = np.full(50, 1e10)
    loss = Chinchilla().loss({"n_params": N, "n_tokens": at_one})
    found = ss.fit("chinchilla", table(d=at_one, loss=np.asarray(loss) * np.exp(0.002 * RNG.normal(size=50))))
    assert found.status == "unidentified"
    assert "beta does not change" in found.message
    assert "combination of" in found.message
    assert all(np.isnan(v) for v in found.standard_errors.values())
    # What is not known is null in JSON, which has no nan.
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["standard_errors"]["beta"] is None
    found.save(tmp_path / "law.json")
    again = ss.load_fit(tmp_path / "law.json")
    assert again.status == "unidentified"
    assert all(np.isnan(ends).all() for ends in again.intervals.values())


def test_pinning_what_is_open_closes_it():
    at_one = np.full(50, 1e10)
    loss = np.asarray(Chinchilla().loss({"n_params": N, "n_tokens": at_one}))
    found = ss.fit("chinchilla", table(d=at_one, loss=loss), fixed={"beta": 0.3658, "E": 1.8172})
    assert found.status in ("converged", "few_starts_agree")
    assert found.coefficients["B"] == pytest.approx(Chinchilla().B, rel=1e-4)


def test_a_law_that_is_nan_in_part_of_its_box_is_fitted_in_the_rest():
    def brittle(n_params, E, A, alpha):
        return E + A * (n_params / 1e9) ** -alpha + 0 * jnp.log(0.6 - alpha)

    law = law_from_function(
        brittle, {"E": (1.0, 3.0), "A": (0.1, 10.0), "alpha": (0.1, 2.0)}, ["n_params"], linear=["E", "A"]
    )
    truth = 1.9 + 0.5 * (N / 1e9) ** -0.3
    found = ss.fit(law, ss.RunTable({"n_params": N}, truth))
    assert found.status == "converged"
    assert found.coefficients["alpha"] == pytest.approx(0.3, rel=1e-5)


def test_a_law_that_is_nan_everywhere_is_refused():
    def broken(n_params, E):
        return jnp.log(-E) * n_params

    law = law_from_function(broken, {"E": (1.0, 3.0)}, ["n_params"])
    with pytest.raises(ss.Unreachable, match="no finite objective"):
        ss.fit(law, ss.RunTable({"n_params": N}, LOSS))


def test_groups_of_one_row_cannot_have_two_coefficients_of_their_own():
    group = np.where(np.arange(50) == 7, "alone", "rest")
    found = ss.fit("chinchilla", table(group=group), per_group=("A", "alpha"))
    assert found.status == "unidentified"
    assert "A[" in found.message


def test_resampling_and_folds_need_what_they_need():
    found = ss.fit("chinchilla", table())
    with pytest.raises(ss.InvalidInput, match="at least two groups"):
        bootstrap(found, 10, kind="cluster")
    with pytest.raises(ss.InvalidInput, match="kind 'block' is not known"):
        bootstrap(found, 10, kind="block")
    with pytest.raises(ss.InvalidInput, match="whole number from 2"):
        bootstrap(found, 1)
    with pytest.raises(ss.InvalidInput, match="needs groups"):
        leave_one_group_out(found)


def test_evidence_must_be_some_and_points_one():
    with pytest.raises(ss.InvalidInput, match="evidence is empty"):
        ss.fit("chinchilla", [])
    with pytest.raises(ss.InvalidInput, match=r"join them by RunTable\.concatenate"):
        ss.fit("chinchilla", [Points(table()), Points(table())])
    with pytest.raises(ss.InvalidInput, match="sigma must be above 0"):
        Squared(0.0)
    with pytest.raises(ss.InvalidInput, match="use_error needs"):
        ss.fit("chinchilla", table(), noise=Squared(use_error=True))


def test_measurement_errors_weigh():
    error = np.where(np.arange(50) < 25, 1e-4, 1.0)
    wrong = np.where(np.arange(50) < 25, LOSS, LOSS + RNG.normal(scale=0.2, size=50))
    found = ss.fit("chinchilla", table(loss=wrong, error=error), noise=Squared(use_error=True))
    clean = ss.fit("chinchilla", table().take(slice(0, 25)), noise=Squared())
    assert found.coefficients["alpha"] == pytest.approx(clean.coefficients["alpha"], rel=0.02)


def test_asymmetry_moves_the_law_below_most_runs():
    even = ss.fit("chinchilla", table(), noise=Squared())
    floor = ss.fit("chinchilla", table(), noise=Squared(asymmetry=50.0))
    assert (floor.residuals() > 0).sum() < (even.residuals() > 0).sum() / 2


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (optax.adam(0.05), 500),
        (optax.lbfgs(), 60),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.05, weight_decay=0.0)), 500),
        (levenberg_marquardt(), 40),
    ],
    ids=["adam", "lbfgs", "chain", "levenberg-marquardt"],
)
def test_any_optax_transformation_is_a_solver(solver, steps):
    ours = ss.fit("chinchilla", table(), starts=8)
    theirs = ss.fit("chinchilla", table(), starts=8, solver=solver, steps=steps)
    assert theirs.objective == pytest.approx(ours.objective, rel=1e-9)
    assert theirs.status == "converged"


def test_a_solver_written_again_shares_its_program():
    from scalesim.fitting import engine

    few = {"law": "power", "evidence": ss.RunTable({"n_params": N}, LOSS), "starts": 4, "steps": 5}
    ss.fit(**few, solver=optax.adam(0.05))
    before = engine._descended._cache_size()
    ss.fit(**few, solver=optax.adam(0.05))
    assert engine._descended._cache_size() == before
    ss.fit(**few, solver=optax.adam(0.06))
    assert engine._descended._cache_size() == before + 1


def test_options_that_do_nothing_are_refused():
    with pytest.raises(ss.InvalidInput, match="steps=10 counts the steps of `solver`"):
        ss.fit("chinchilla", table(), steps=10)
    with pytest.raises(ss.InvalidInput, match="tolerance must be above 0"):
        ss.fit("chinchilla", table(), tolerance=0.0)


@pytest.mark.parametrize("given", ["bounds", "priors"])
def test_what_is_held_has_no_bounds_and_no_prior(given):
    with pytest.raises(ss.InvalidInput, match=r"E is held fixed: .* for it would do nothing"):
        ss.fit("power", "paper", fixed={"E": 1.97}, **{given: {"E": (1.5, 2.0)}})


def test_a_tolerance_that_rounding_cannot_meet_is_no_convergence():
    found = ss.fit("chinchilla", table(), tolerance=1e-30)
    assert found.status == "not_converged"
    with pytest.raises(ss.Unreachable, match="not an optimum"):
        ss.fit("chinchilla", table(), tolerance=1e-30, throw=True)


def test_tables_of_different_length_share_programs():
    from scalesim.fitting import refit

    ss.fit("chinchilla", table())
    before = refit._march.n_programs()
    ss.fit("chinchilla", table().take(slice(0, 60)))
    ss.fit("chinchilla", table().take(slice(0, 49)))
    assert refit._march.n_programs() == before
