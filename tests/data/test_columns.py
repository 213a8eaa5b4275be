"""Columns under the names that people give them: read, or a sentence with the columns and the option."""

import json

import numpy as np
import pytest

import scalesim as ss

N, D = [1e8, 2e8, 4e8], [2e9, 4e9, 8e9]
LOSS = [3.45, 3.12, 2.91]
WORSE = [3.5, 3.2, 3.0]


@pytest.mark.parametrize(
    "name", ["params", "num_params", "parameter_count", "Total Params", "config.n_params", "N"]
)
def test_parameters(name):
    assert ss.load_runs({name: N, "tokens": D, "loss": LOSS})["n_params"].tolist() == N


@pytest.mark.parametrize(
    "name",
    [
        "tokens",
        "total_tokens",
        "tokens_trained",
        "throughput/total_tokens",
        "D",
        "token_count",
        "num_input_tokens_seen",
    ],
)
def test_tokens(name):
    assert ss.load_runs({"N": N, name: D, "loss": LOSS})["n_tokens"].tolist() == D


@pytest.mark.parametrize(
    "name", ["val_loss", "eval/loss", "val/loss", "eval_loss", "valid loss", "L", "final_val_loss"]
)
def test_losses(name):
    assert ss.load_runs({"N": N, "D": D, name: LOSS}).loss.tolist() == LOSS


@pytest.mark.parametrize("name", ["C", "compute_budget", "training FLOPs", "total_flops", "flops_budget"])
def test_compute(name):
    flops = [6 * n * d for n, d in zip(N, D, strict=True)]
    np.testing.assert_allclose(ss.load_runs({"N": N, name: flops, "loss": LOSS})["n_tokens"], D)


@pytest.mark.parametrize(
    ("table", "field", "wanted"),
    [
        ({"N": N, "D": D, "d": [512, 1024, 2048], "loss": LOSS}, "n_tokens", D),
        ({"N": N, "n": [1, 2, 3], "D": D, "loss": LOSS}, "n_params", N),
        ({"N": N, "D": D, "L": [8, 16, 32], "loss": LOSS}, "n_layer", [8, 16, 32]),
        ({"N": N, "D": D, "L": LOSS}, "loss", LOSS),
        ({"N": N, "D": D, "train_loss": WORSE, "val_loss": LOSS}, "loss", LOSS),
        ({"N": N, "D": D, "loss": WORSE, "eval/loss": LOSS}, "loss", LOSS),
        ({"N": N, "D": D, "train/CrossEntropyLoss": LOSS}, "loss", LOSS),
        ({"N": N, "D": D, "loss": LOSS, "loss_std": [0.1] * 3, "aux_loss": WORSE}, "loss", LOSS),
    ],
)
def test_which_of_several_is_meant(table, field, wanted):
    assert ss.load_runs(table)[field].tolist() == wanted


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"N": N, "D": D, "loss": LOSS, "Loss": WORSE}, "several columns that may be loss: 'loss', 'Loss'"),
        ({"num_params": N, "num_scaling_params": D, "D": D, "loss": LOSS}, "--column n_params="),
        ({"total_params": N, "active_params": D, "D": D, "loss": LOSS}, "--column n_params=total_params"),
        ({"N": N, "D": D, "val_loss": LOSS, "test_loss": WORSE}, "--column loss=val_loss"),
        ({"N": N, "D": D, "accuracy": LOSS}, r"no column for the loss: --column loss=NAME .*'accuracy'"),
        ({"log_params": N, "D": D, "loss": LOSS}, "holds logarithms of n_params"),
        ({"Wall time": N, "Step": D, "Value": LOSS}, "as TensorBoard exports it"),
        ({"Step": N, "a - loss": LOSS, "b - loss": LOSS}, "a row a step and a column a run"),
    ],
)
def test_doubt_is_a_question(table, says):
    with pytest.raises(ss.InvalidInput, match=says):
        ss.load_runs(table)


def test_a_trainers_log_is_read(tmp_path):
    logged = [{"step": s, "loss": 5 - s, "num_input_tokens_seen": s * 10**7} for s in (1, 2)]
    logged += [{"step": s, "eval_loss": 4.5 - s} for s in (1, 2)]
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"global_step": 2, "log_history": logged}))
    runs = ss.load_runs(path)
    assert runs.loss.tolist() == [3.5, 2.5]
    assert runs["n_tokens"].tolist() == [1e7, 2e7]
    assert any("one run of Hugging Face's Trainer" in note for note in runs.notes)


@pytest.mark.parametrize(
    "value",
    [
        [{"N": n, "D": d, "loss": one} for n, d, one in zip(N, D, LOSS, strict=True)],
        {"N": N, "D": D, "loss": LOSS},
        {"runs": [{"config": {"N": n}, "D": d, "loss": one} for n, d, one in zip(N, D, LOSS, strict=True)]},
        {"columns": ["N", "D", "loss"], "data": [list(row) for row in zip(N, D, LOSS, strict=True)]},
        {k: {str(i): v for i, v in enumerate(c)} for k, c in {"N": N, "D": D, "loss": LOSS}.items()},
    ],
)
def test_json_as_programs_write_it(tmp_path, value):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(value))
    runs = ss.load_runs(path)
    assert (runs["n_params"].tolist(), runs.loss.tolist()) == (N, LOSS)


def test_histories_are_said():
    steps = np.arange(1, 21)
    table = {
        "Name": np.repeat(["a", "b"], 20),
        "N": np.repeat([1e8, 2e8], 20),
        "tokens": np.tile(steps * 1e8, 2),
        "loss": 3 + 1 / np.tile(steps, 2),
    }
    notes = ss.load_runs(table).notes
    assert any("histories of 2 runs" in note and "--group Name" in note for note in notes)
    assert not any("histories" in note for note in ss.load_runs("paper").notes)


def test_runs_that_crashed_are_dropped_and_said():
    runs = ss.load_runs({"N": N, "D": D, "loss": LOSS, "State": ["finished", "crashed", "finished"]})
    assert len(runs) == 2
    assert "1 rows were dropped because their State is crashed" in runs.notes[1]


def test_options_work_on_shipped_tables_or_are_refused():
    assert len(ss.load_runs("own", select={"context_length": "64"})) == 54
    assert set(ss.load_runs("own", group="n_head").group) > {"1", "2"}
    with pytest.raises(ss.InvalidInput, match="unit does nothing here: it says"):
        ss.load_runs("own", units={"n_tokens": 1e9})


def test_a_field_that_is_missing_names_the_columns_that_are_none():
    runs = ss.load_runs({"N": N, "zeichen": D, "loss": LOSS})
    with pytest.raises(ss.InvalidInput, match=r"n_tokens.* 'zeichen' are no field: --column n_tokens=NAME"):
        ss.fit("chinchilla", runs)


def test_a_column_is_of_one_field_and_others_that_might_be_it_are_said():
    with pytest.raises(ss.InvalidInput, match="'D' is given for both n_params and n_tokens; one would do"):
        ss.load_runs({"N": N, "D": D, "loss": LOSS}, columns={"n_params": "D", "n_tokens": "D"})
    notes = ss.load_runs({"n_params": N, "N": [2 * n for n in N], "D": D, "loss": LOSS}).notes
    assert "n_params is the column of that name, not 'N'." in notes
    assert not ss.load_runs({"n_params": N, "N": N, "n_tokens": D, "loss": LOSS}).notes
