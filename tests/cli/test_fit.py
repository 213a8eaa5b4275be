import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from scalesim.cli import main
from scalesim.laws import Chinchilla


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = {"n_params": np.exp(rng.uniform(17, 23, 60)), "n_tokens": np.exp(rng.uniform(21, 26, 60))}
    loss = np.asarray(Chinchilla().loss(x)) * np.exp(0.003 * rng.normal(size=60))
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    pl.DataFrame({**x, "loss": loss, "set": np.arange(60) % 5}).write_csv(path)
    return str(path)


def test_fit_prints_one_object_and_predict_reads_what_it_saved(runs, tmp_path, capsys):
    law, figure = str(tmp_path / "law.json"), tmp_path / "fit.png"
    assert main(["fit", runs, "--bootstrap", "200", "--save", law, "--plot", str(figure), "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    answer = json.loads(printed)
    keys = {"coefficients", "objective", "standard_errors", "intervals", "starts_agreeing", "status"}
    assert keys <= answer.keys()
    assert answer["status"] == "converged"
    low, high = answer["intervals"]["alpha"]
    assert low < answer["coefficients"]["alpha"] < high
    assert "samples" not in answer["bootstrap"]
    assert figure.stat().st_size > 10_000

    assert main(["predict", law, "--n-params", "1B", "7B", "--n-tokens", "100B", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    first, second = answer["predictions"]
    assert first["loss_interval"][0] < first["loss"] < first["loss_interval"][1]
    assert second["loss"] < first["loss"]
    assert second["n_tokens"] == 1e11
    assert main(["predict", law, "--n-params", "1B", "--n-tokens", "100B"]) == 0
    assert "n_tokens" in capsys.readouterr().out


def test_fit_for_people_compares_and_holds(runs, capsys):
    args = [
        "fit",
        runs,
        "--group",
        "set",
        "--compare",
        "kaplan",
        "--fix",
        "E=1.8172",
        "--bound",
        "alpha=0.05:0.5",
    ]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "Chinchilla" in printed
    assert "Kaplan" in printed
    assert "held" in printed


def test_isoflop_by_three_approaches(tmp_path, capsys):
    n = np.tile(np.geomspace(1e8, 1e10, 9), 3)
    flops = np.repeat([1e19, 1e20, 1e21], 9)
    x = {"n_params": n, "n_tokens": flops / 6 / n}
    path, figure = tmp_path / "grid.csv", tmp_path / "iso.png"
    noise = np.exp(0.001 * np.random.default_rng(0).normal(size=27))
    pl.DataFrame({**x, "flops": flops, "loss": np.asarray(Chinchilla().loss(x)) * noise}).write_csv(path)
    assert main(["fit", str(path), "--isoflop", "--json", "--plot", str(figure)]) == 0
    answer = json.loads(capsys.readouterr().out)["isoflop"]
    assert answer["approach 3"]["exponent"] == pytest.approx(0.5126, abs=0.02)
    assert abs(answer["approach 2"]["bias"]["exponent_bias"]) < 0.1
    assert figure.stat().st_size > 10_000


def test_minima_at_an_end_are_said_to_people_and_budgets_have_intervals(tmp_path, capsys):
    n = np.tile(np.geomspace(8e7, 2.5e9, 9), 7)
    flops = np.repeat([1e19, 3e19, 1e20, 3e20, 1e21, 3e21, 1e22], 9)
    x = {"n_params": n, "n_tokens": flops / 6 / n}
    noise = np.exp(0.0005 * np.random.default_rng(0).normal(size=63))
    path = str(tmp_path / "edges.csv")
    pl.DataFrame({**x, "flops": flops, "loss": np.asarray(Chinchilla().loss(x)) * noise}).write_csv(path)
    assert main(["fit", path, "--budget", "1e23", "--bootstrap", "50"]) == 0
    printed = capsys.readouterr().out
    assert "at the largest model; left out" in " ".join(printed.split())
    assert "n_params" in printed
    assert "1e+23" in printed
    assert main(["fit", path, "--budget", "1e23", "--bootstrap", "50", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["isoflop"]
    assert answer["approach 2"]["exponent"] == pytest.approx(0.5126, abs=0.03)
    for approach in ("approach 2", "approach 3"):
        sized = answer[approach]["budgets"][0]
        low, high = sized["n_params_interval"]
        assert low < sized["n_params"] < high
        assert 6 * sized["n_params"] * sized["n_tokens"] == pytest.approx(1e23)
        assert sized["extrapolation"] >= 9.9


@pytest.mark.slow
def test_best_is_a_law_to_extrapolate_by(runs, tmp_path, capsys):
    law = str(tmp_path / "law.json")
    assert main(["fit", runs, "--law", "best", "--bootstrap", "50", "--save", law, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {line["name"] for line in answer["comparison"]} == {
        "PowerOfSum",
        "Chinchilla",
        "Kaplan + Constant",
    }
    assert answer["picked"]["name"] in ("PowerOfSum", "Chinchilla")
    assert answer["rollout_errors"]["folds"]
    assert main(["predict", law, "--n-params", "1T", "--n-tokens", "1T", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    line = said["predictions"][0]
    assert line["extrapolation"]["flops"] > 10
    assert line["extrapolation_error"] > 0
    assert isinstance(said["notes"], list)


def test_resuming_a_bootstrap_gives_the_same(runs, tmp_path, capsys):
    args = ["fit", runs, "--json", "--resume", str(tmp_path / "kept.npz"), "--bootstrap"]
    assert main([*args, "50"]) == 0
    assert main([*args, "100"]) == 0
    resumed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["fit", runs, "--json", "--bootstrap", "100"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert resumed["standard_errors"] == pytest.approx(whole["standard_errors"], rel=1e-6)


def test_what_is_not_identified_exits_1_and_says_so(tmp_path, capsys):
    path = tmp_path / "few.csv"
    pl.DataFrame({"n_params": [1e8, 2e8], "n_tokens": [1e9, 2e9], "loss": [3.1, 2.9]}).write_csv(path)
    assert main(["fit", str(path), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == "unidentified"
    assert "2 rows cannot determine 5 coefficients" in answer["message"]
    assert answer["standard_errors"]["alpha"] is None


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["fit", "nowhere.csv"], "does not exist"),
        (["fit", "RUNS", "--law", "chinchila"], "did you mean 'chinchilla'"),
        (["fit", "RUNS", "--fix", "E"], "is not NAME=VALUE"),
        (["fit", "RUNS", "--fix", "E=low"], "is not a number"),
        (["fit", "RUNS", "--bound", "E=1"], "is not LOW:HIGH"),
        (["fit", "RUNS", "--drop-largest", "60"], "drop_largest must be"),
        (["fit", "RUNS", "--law", "gemstones"], "needs d_model, n_layer"),
        (["fit", "RUNS", "--plot", "fit.xyz"], "no known format"),
        (["predict", "nowhere.json"], "neither a file nor a shipped fit"),
        (["predict", "RUNS"], "is not JSON"),
        (["predict", "default", "--n-params", "1B"], "needs n_head"),
        (["predict", "default", "--n-params", "1B", "--n-tokens", "1B"], "does not look at n_tokens"),
        (["predict", "default", "--n-params", "big"], "is not a size"),
    ],
)
def test_wrong_calls_exit_2_with_a_sentence(runs, capsys, args, says):
    assert main([runs if arg == "RUNS" else arg for arg in args]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("options", [["--select", "n_head=999"], ["--column", "n_tokens=tok"]])
def test_what_a_shipped_table_cannot_do_is_refused_in_a_sentence(options, capsys):
    assert main(["fit", "paper", *options]) == 2
    assert capsys.readouterr().err.startswith("scalesim: ")


def test_the_module_ends_with_the_commands_exit_code():
    run = [sys.executable, "-m", "scalesim", "fit", "paper", "--select", "n_head=999"]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "no row has n_head = '999'" in found.stderr


def test_heads_that_the_runs_vary_and_the_law_does_not_see_are_said(runs, tmp_path, capsys):
    assert main(["fit", "paper", "--law", "power", "--starts", "4", "--json"]) == 0
    told = capsys.readouterr()
    assert "vary n_head and n_kv_head at one size, which PowerLaw does not see; --law" in told.err
    assert "does not see" in json.loads(told.out)["notes"][-1]
    assert main(["fit", "paper", "--law", "separablehead", "--starts", "4"]) == 0
    assert "does not see" not in capsys.readouterr().err
    # Heads that grow with the model alone say nothing that its size does not, and tables without are silent.
    assert main(["fit", runs, "--starts", "4"]) == 0
    assert "does not see" not in capsys.readouterr().err
    table = pl.DataFrame({"n_params": [1e8, 1.01e8, 1e9], "n_head": [8, 4, 8], "loss": [3.0, 3.1, 2.5]})
    table.write_csv(tmp_path / "heads.csv")
    assert main(["fit", str(tmp_path / "heads.csv")]) == 2
    assert "needs n_tokens" in (told := capsys.readouterr().err)
    assert "vary n_head at one size, which Chinchilla does not see, and no law of ours does." in told
