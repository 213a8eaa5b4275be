"""Counts in millions, PF-days, perplexities: asked for by field, converted when told, never silent."""

import numpy as np
import pytest

import scalesim as ss
from scalesim.data.units import scale_of, unit_in_name

GENERATOR = np.random.default_rng(0)
N = 10 ** GENERATOR.uniform(7.5, 9.5, 30)
D = N * 10 ** GENERATOR.uniform(0.7, 2.0, 30)
C = 6 * N * D
LOSS = 1.8 + 400 / N**0.34 + 1800 / D**0.36


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"N": N / 1e6, "D": D, "loss": LOSS}, "--unit n_params=1e6"),
        ({"N": N / 1e3, "D": D, "loss": LOSS}, "--unit n_params=1e3"),
        ({"N": N / 1e6, "D": D / 1e6, "loss": LOSS}, "--unit n_params=1e6"),
        ({"params (M)": N / 1e6, "D": D / 1e6, "loss": LOSS}, "--unit n_tokens=1e6"),
        ({"N": N, "TFLOPs": C / 1e9, "loss": LOSS}, "--unit n_params=1e3"),
        ({"N": N, "D": D / 1e6, "loss": LOSS}, "--unit n_tokens=1e6"),
        ({"N": N, "D": D / 1e9, "loss": LOSS}, "--unit n_tokens=1e9"),
        ({"N": N, "D": D / 1e3, "loss": LOSS}, "--unit n_tokens=1e3"),
        ({"N": N, "C": C / 8.64e19, "loss": LOSS}, "--unit flops=PF-days"),
        ({"N": N, "C": C / 1e18, "loss": LOSS}, "--unit flops=1e18"),
        ({"N": N, "C": C / 1e9, "loss": LOSS}, "--unit flops=1e9"),
        ({"N": N, "D": D, "C": C / 1e9, "loss": LOSS}, "flops are 1e-09 times 6 n_params n_tokens"),
        ({"N": N, "D": D, "loss": np.exp(LOSS)}, "--unit loss=perplexity"),
        ({"N": N, "D": D, "ppl": np.exp(LOSS / 2)}, "column 'ppl', by its name in perplexity"),
        ({"N": N, "D": D, "loss_bits": LOSS / np.log(2)}, "--unit loss=bits"),
        ({"N": np.where(np.arange(30) == 7, N / 1e9, N), "D": D, "loss": LOSS}, r"from 0.909899 \(row 7\)"),
        (
            {"N": N, "D": np.where(np.arange(30) < 15, D / 1e9, D), "loss": LOSS},
            "rows look to be in different",
        ),
        (
            {"N": np.where(np.arange(30) == 7, 1e3 * N, N), "D": D, "C": 6 * N * D, "loss": LOSS},
            "flops of row 7 are 0.001 times 6 n_params n_tokens, where the median row has 1",
        ),
        ({"log10_params": np.log10(N), "D": D, "loss": LOSS}, "holds logarithms of n_params by its name"),
        ({"N": N, "ln(tokens)": np.log(D), "loss": LOSS}, "holds logarithms of n_tokens by its name"),
        ({"N": N, "D": np.where(np.arange(30) == 7, D / 1e5, D), "loss": LOSS}, "Row 7 has"),
    ],
)
def test_units_are_asked_for(table, says):
    with pytest.raises(ss.InvalidInput, match=says):
        ss.load_runs(table)


@pytest.mark.parametrize(
    ("table", "units"),
    [
        ({"N": N / 1e6, "D": D / 1e9, "loss": LOSS}, {"n_params": "millions", "n_tokens": "1e9"}),
        ({"params (M)": N / 1e6, "tokens_B": D / 1e9, "loss": LOSS}, {}),
        ({"N (millions)": N / 1e6, "D [billions]": D / 1e9, "loss": LOSS}, {}),
        ({"N/1e6": N / 1e6, "D/1e9": D / 1e9, "loss": LOSS}, {}),
        ({"N": N, "compute (PFLOP/s-days)": C / 8.64e19, "loss": LOSS}, {}),
        ({"N": N, "C": C / 8.64e19, "loss": LOSS}, {"flops": "PF-days"}),
        ({"N": N, "compute_pf_days": C / 8.64e19, "loss": LOSS}, {}),
        ({"N": N, "EFLOPs": C / 1e18, "loss": LOSS}, {}),
        ({"N": N, "D": D, "TFLOPs": np.full(30, 120.0), "loss": LOSS}, {}),
        ({"N": N, "D": D, "loss": np.exp(LOSS)}, {"loss": "perplexity"}),
        ({"N": N, "D": D, "loss": LOSS / np.log(2)}, {"loss": "bits"}),
        ({"N": [f"{n / 1e6:.9f}M" for n in N], "D": [f"{d / 1e9:.9f}B" for d in D], "loss": LOSS}, {}),
    ],
)
def test_units_that_are_said_are_converted(table, units):
    runs = ss.load_runs(table, units=units)
    np.testing.assert_allclose(runs["n_params"], N)
    np.testing.assert_allclose(runs["n_tokens"], D, rtol=1e-6)
    np.testing.assert_allclose(runs.loss, LOSS)


def test_what_is_confirmed_is_taken():
    odd = ss.load_runs({"N": N, "D": D / 1e6, "loss": LOSS}, units={"n_tokens": 1})
    np.testing.assert_allclose(odd["n_tokens"], D / 1e6)


def test_a_diverged_run_is_an_outlier_not_a_perplexity():
    runs = ss.load_runs({"N": N, "D": D, "loss": np.where(np.arange(30) == 10, 18.3, LOSS)})
    assert len(runs) == 29
    assert "row 10: 18.3" in runs.notes[-1]


def test_bits_a_byte_are_read_and_said():
    runs = ss.load_runs({"N": N, "D": D, "val_bpb": LOSS / 4})
    np.testing.assert_allclose(runs.loss, LOSS / 4)
    assert any("bits a byte" in note for note in runs.notes)


@pytest.mark.parametrize(
    ("unit", "value"), [("1e9", 1e9), ("Billions", 1e9), ("PF-days", 8.64e19), (1e6, 1e6)]
)
def test_units_by_word(unit, value):
    assert scale_of("flops", unit) == value


@pytest.mark.parametrize("unit", ["", "many", "-1", "0", "nan", "inf"])
def test_no_unit(unit):
    with pytest.raises(ss.InvalidInput, match="is not known"):
        scale_of("n_tokens", unit)


@pytest.mark.parametrize("name", ["n_params", "tokens per b", "b", "model_size", "n_t"])
def test_names_without_a_unit(name):
    assert unit_in_name(name) is None
