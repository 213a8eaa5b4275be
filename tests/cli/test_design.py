import json
from importlib.resources import files

import pytest

import scalesim as ss
from scalesim.cli import COMMANDS, main

ASKED = ["design", "--context", "128K", "--target-loss", "2.615"]


def run_json(capsys, *args):
    assert main([*args, "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, "one JSON object and nothing else"
    return json.loads(printed)


def test_json_holds_what_it_promises(capsys):
    answer = run_json(capsys, *ASKED)
    for part in (answer, answer["baseline"]):
        assert {"shape", "n_params_non_embedding", "n_params_total", "loss", "cost"} <= part.keys()
        assert {"objective", "memory_bytes", "flops"} <= part["cost"].keys()
    assert {"savings", "gap_to_exhaustive", "extrapolation", "status", "loss_interval"} <= answer.keys()
    cost, baseline = answer["cost"], answer["baseline"]["cost"]
    assert answer["savings"]["memory"] == pytest.approx(1 - cost["memory_bytes"] / baseline["memory_bytes"])
    assert answer["savings"]["flops"] == pytest.approx(1 - cost["flops"] / baseline["flops"])
    assert cost["memory_bytes"] == sum(cost["memory_bytes_parts"].values())
    low, high = answer["loss_interval"]
    assert low < answer["loss"] < high
    assert answer["gap_to_exhaustive"] == 0


@pytest.mark.parametrize(
    "args",
    [
        ["--context", "8K", "128K", "--target-loss", "2.6", "2.8"],
        ["--context", "8K,128K", "--target-loss", "2.6,2.8"],
        ["--context=8K", "--target-loss", "2.6", "--context", "128K", "--target-loss=2.8"],
    ],
)
def test_several_questions_give_a_list(capsys, args):
    designs = run_json(capsys, "design", *args)["designs"]
    asked = [(d["context_length"], d["target_loss"]) for d in designs]
    assert asked == [(8192, 2.6), (8192, 2.8), (131072, 2.6), (131072, 2.8)]


def test_people_get_a_table_and_a_figure(capsys, tmp_path):
    figure = tmp_path / "new folder" / "d.png"
    assert main([*ASKED, "--lattice", "paper", "--lattice", "buildable", "--plot", str(figure)]) == 0
    printed = capsys.readouterr().out
    for words in ("16 × 2048", "32 : 8", "16 : 1", "weights + KV cache", "Beyond the evidence", "90%"):
        assert words in printed
    assert figure.stat().st_size > 20_000
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_units_and_objectives_reach_the_cost(capsys):
    z = run_json(capsys, *ASKED)
    halved = run_json(capsys, *ASKED, "--causal-halving", "yes")
    assert halved["baseline"]["cost"]["flops"] < 0.6 * z["baseline"]["cost"]["flops"]
    low = run_json(capsys, *ASKED, "--kv-bits", "8")
    parts = ("cost", "memory_bytes_parts", "time_variant")
    assert low["baseline"][parts[0]][parts[1]][parts[2]] * 2 == z["baseline"][parts[0]][parts[1]][parts[2]]
    memory = run_json(capsys, *ASKED, "--objective", "memory")
    assert memory["cost"]["objective"] == pytest.approx(memory["cost"]["memory_bytes"])
    assert memory["cost"]["memory_bytes"] <= z["cost"]["memory_bytes"]
    token = run_json(capsys, *ASKED, "--flops-per", "token", "--objective", "flops")
    assert token["cost"]["objective"] == pytest.approx(token["cost"]["flops"])
    assert token["cost"]["flops"] < 1e11


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ttft", "tpot", "price"])
def test_hardware_is_an_objective(capsys, objective):
    at = ["--objective", objective, "--hardware", "h100-sxm", "--batch-size", "8", "--generated", "1K"]
    answer = run_json(capsys, *ASKED, *at)
    assert answer["cost"]["objective"] < answer["baseline"]["cost"]["objective"]
    sizes = {name: answer["shape"][name] for name in ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff")}
    shape, hardware = ss.Shape(head_dim=64, **sizes), ss.load_hardware("h100-sxm")
    job = ss.Workload(context_length=131072, batch_size=8, generated_length=1024)
    measured = ss.named_measure(objective, hardware=hardware)(shape, job)
    assert answer["cost"]["objective"] == pytest.approx(float(measured), rel=1e-9)


def test_a_mix_of_contexts_is_between_its_ends(capsys):
    ends = [run_json(capsys, "design", "--context", c)["cost"]["objective"] for c in ("8K", "128K")]
    mixed = run_json(capsys, "design", "--context-mix", "8K:3", "128K:1")
    assert ends[0] < mixed["cost"]["objective"] < ends[1]
    assert mixed["context_length"] == 8192 * 0.75 + 131072 * 0.25


def test_budgets_and_limits_reach_the_search(capsys):
    dual = run_json(capsys, "design", "--budget", "57000")
    assert dual["cost"]["objective"] <= 57000
    tight = run_json(capsys, *ASKED, "--max-params", "1.1B", "--max-memory-gib", "2.5", "--tensor", "2")
    assert tight["n_params_total"] <= 1.1e9
    assert tight["cost"]["memory_bytes"] <= 2.5 * 2**30
    assert tight["shape"]["n_head"] % 2 == 0


@pytest.mark.slow
def test_baselines_families_and_laws(capsys):
    given = run_json(capsys, *ASKED, "--baseline", "16x2048x32x8")
    assert given["baseline_at_target_loss"] is None
    mha = run_json(capsys, *ASKED, "--baseline", "mha")
    assert mha["baseline"]["shape"]["n_kv_head"] == mha["baseline"]["shape"]["n_head"]
    table = run_json(capsys, *ASKED, "--family", "table")
    assert table["shape"]["n_layer"] > given["shape"]["n_layer"]
    points = run_json(capsys, *ASKED, "--law", "points", "--lattice", "paper")
    assert (points["shape"]["n_head"], points["shape"]["n_kv_head"]) == (8, 1)
    few = run_json(capsys, *ASKED, "--max-head", "4", "--tile", "128")
    assert few["shape"]["n_head"] <= 4
    assert few["shape"]["d_ff"] % 128 == 0


BAD = [
    (["design", "--target-loss", "1.9"], 1, "target_loss 1.9 is out of reach"),
    (["design", "--target-loss", "30"], 1, "target_loss 30 is higher than"),
    (["design", "--target-loss", "-1"], 2, "target_loss must be above 0"),
    (["design", "--target-loss", "nan"], 2, "target_loss must be above 0"),
    (["design", "--context", "many"], 2, "context 'many' is not a size"),
    (["design", "--context", "0"], 2, "context must be above 0"),
    (["design", "--context-mix", "8K:x"], 2, "context-mix '8K:x' is not LENGTH:WEIGHT"),
    (["design", "--context-mix", "8K:-1"], 2, "counts must be finite, at least 0"),
    (["design", "--weights", "1.5"], 2, "weights must be between 0 and 1"),
    (["design", "--kv-bits", "0"], 2, "kv_bits must be above 0"),
    (["design", "--batch-size", "-2"], 2, "batch_size must be above 0"),
    (["design", "--objective", "tpot", "--hardware", "h9000"], 2, "h9000"),
    (
        ["design", "--objective", "tpot", "--context-mix", "8K:1"],
        2,
        "context-mix does not go with",
    ),
    (["design", "--max-params", "0.5B"], 1, "(32, 32), has n_params_total = 8.1"),
    (["design", "--max-params", "few"], 2, "max-params 'few' is not a size"),
    (["design", "--budget", "1"], 1, "budget 1 buys no model"),
    (["design", "--lattice", "all"], 2, "lattice 'all' is not known"),
    (["design", "--family", "wide"], 2, "family 'wide' is not known"),
    (["design", "--baseline", "gpt"], 2, "baseline 'gpt' is not known"),
    (["design", "--baseline", "16x2048x32x12"], 2, "n_kv_head must divide n_head = 32, but is 12"),
    (["design", "--law", "nowhere.json"], 2, "law 'nowhere.json' is neither"),
    (["design", "--runs", "nowhere.csv"], 2, "nowhere.csv"),
    (["design", "--max-head", "0"], 2, "max_head, tile and tensor must be at least 1"),
    (["design", "--plot", "figure.xyz"], 2, "plot 'figure.xyz' has no known format"),
    (["design", "--frontier", "loss"], 2, "measures must be two or three"),
    (["design", "--frontier", "loss", "speed"], 2, "measure 'speed' is not known"),
    (["design", "--frontier", "loss", "memory", "--map"], 2, "--frontier and --map exclude each other"),
    (["design", "--map", "--budget", "1"], 2, "--map and --budget exclude each other"),
    (["design", "--marginal-value", "0.1"], 2, "--marginal-value picks a design of a frontier"),
    (["design", "--map", "--plot-uncertainty", "d.png"], 2, "--plot-uncertainty draws"),
    (["design", "--map", "--lattice", "paper,buildable"], 2, "--map takes one lattice"),
    (
        ["design", "--frontier", "loss,memory", "--context", "8K,32K", "--plot", "f.png"],
        2,
        "--plot draws the frontier of one context",
    ),
    (["cost", "--shape", "llama3-gqa"], 2, "model 'llama3-gqa' is not known"),
    (["cost", "--shape", "0x64x1x1"], 2, "n_layer must be above 0"),
    (["desing"], 2, "command 'desing' is not known; did you mean 'design'"),
]


@pytest.mark.parametrize(("args", "code", "says"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_mistakes_get_a_sentence(capsys, args, code, says):
    assert main(args) == code
    out, err = capsys.readouterr()
    assert says in err
    assert err.startswith("scalesim: ")
    assert "Traceback" not in err
    assert out == ""


TABLES = {
    "few rows": (
        "n_params,n_head,n_kv_head,loss\n1e8,8,1,3.0\n2e8,8,1,2.9\n",
        1,
        "cannot determine 6 coefficients",
    ),
    "a column missing": ("n_params,n_head,loss\n1e8,8,3.0\n", 2, "HeadLaw needs n_kv_head"),
    "no rows": ("n_params,n_head,n_kv_head,loss\n", 2, "holds no rows"),
    "nothing but nan": ("n_params,n_head,n_kv_head,loss\n1e8,8,1,nan\n", 2, "loss"),
}


@pytest.mark.parametrize(("table", "code", "says"), TABLES.values(), ids=TABLES)
def test_a_run_table_that_will_not_do_is_refused(capsys, tmp_path, table, code, says):
    path = tmp_path / "runs.csv"
    path.write_text(table)
    assert main(["design", "--runs", str(path)]) == code
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""


def test_a_users_own_runs_give_the_law_and_what_was_dropped_is_said(capsys, tmp_path):
    rows = (files("scalesim.data") / "paper_loss_points.csv").read_text().splitlines()
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([*rows, rows[1], rows[2].replace("2.9514", "nan")]) + "\n")
    assert main([*ASKED, "--runs", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "1 rows are exact duplicates" in err
    assert "1 rows were dropped because loss is missing" in err
    assert json.loads(out)["savings"]["memory"] > 0.4


def test_a_misspelt_option_is_the_parsers_to_refuse(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["design", "--contxt", "8K"])
    assert stop.value.code == 2
    assert "--context" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


def test_cost_of_one_shape(capsys):
    report = run_json(capsys, "cost", "--shape", "16x2048x32x8", "--context", "128K")
    assert report["paper"]["memory_bytes"]["time_variant"] == 4 * 2**30
    assert report["paper"]["z"] == pytest.approx(81430, rel=1e-4)
    assert main(["cost", "--shape", "16x2048x32x8"]) == 0
    assert "KV cache" in capsys.readouterr().out


def test_a_frontier_with_its_picks(capsys, tmp_path):
    asked = [*ASKED, "--frontier", "loss", "memory", "--lattice", "paper", "--marginal-value", "0.002"]
    figure = tmp_path / "f.png"
    answer = run_json(capsys, *asked, "--plot", str(figure))
    assert answer["measures"] == ["loss", "memory_bytes"]
    values = [(design["loss"], design["memory_bytes"]) for design in answer["designs"]]
    assert values == sorted(values)
    assert [memory for _, memory in values] == sorted((memory for _, memory in values), reverse=True)
    assert answer["considered"] > len(values)
    assert [pick["rule"] for pick in answer["picks"]] == ["knee", "least", "marginal value"]
    least = answer["picks"][1]
    assert least["loss"] <= 2.615
    assert least["shape"] == answer["designs"][least["index"]]["shape"]
    assert figure.stat().st_size > 20_000
    assert main([*asked, "--target-loss", "2.7"]) == 0
    printed = capsys.readouterr().out
    assert "bettered by none in loss, memory" in printed
    assert "knee: The knee of" in printed


def test_several_contexts_give_several_frontiers(capsys):
    args = ["--frontier", "memory,flops", "--context", "8K", "128K", "--lattice", "paper"]
    fronts = run_json(capsys, "design", *args)["frontiers"]
    assert [front["context_length"] for front in fronts] == [8192, 131072]


def test_the_map_is_drawn_and_printed(capsys, tmp_path):
    figure = tmp_path / "m.png"
    asked = ["design", "--map", "--context", "8K", "512K", "--target-loss", "2.5", "2.9"]
    answer = run_json(capsys, *asked, "--plot", str(figure))
    assert len(answer["chosen"]) == len(answer["target_losses"])
    assert len(answer["chosen"][0]) == len(answer["context_lengths"])
    assert answer["context_lengths"][0] == 8192
    assert sum(region["share"] for region in answer["regions"]) == pytest.approx(1)
    assert figure.stat().st_size > 20_000
    assert main(asked) == 0
    assert "query : KV heads" in capsys.readouterr().out


def test_the_uncertainty_is_drawn(capsys, tmp_path):
    figure = tmp_path / "d.png"
    answer = run_json(capsys, *ASKED, "--lattice", "paper", "--plot-uncertainty", str(figure))
    assert answer["distribution"]["laws"] == 200
    assert figure.stat().st_size > 20_000


@pytest.mark.slow
def test_fields_that_the_law_sees_can_be_free(capsys, tmp_path):
    import dataclasses

    import scalesim as ss

    law = ss.named_fit("paper").law * ss.AspectRatio(eps=0.002, g=0.5)
    path = tmp_path / "deep.json"
    dataclasses.replace(ss.named_fit("paper"), law=law, bootstrap=None, standard_errors={}).save(path)
    asked = ["design", "--law", str(path), "--target-loss", "2.7"]
    answer = run_json(capsys, *asked, "--free", "all", "--max-head", "16")
    assert answer["lattice"] == "wide"
    assert answer["shape"]["n_head"] <= 16
    assert answer["kv_bits"] == 16
    assert answer["loss"] <= 2.7
    assert main([*asked, "--free", "d_model", "n_head", "n_kv_head"]) == 0
    printed = capsys.readouterr().out
    assert "wide lattice" in printed
    assert "20 a parameter; KV cache in 16 bits" in " ".join(printed.split())


@pytest.mark.slow
def test_a_wide_lattice_has_its_uncertainty_and_its_shadow_prices(capsys, tmp_path):
    figure = tmp_path / "d.png"
    asked = [*ASKED, "--free", "n_head", "n_kv_head", "--max-params", "950M"]
    answer = run_json(capsys, *asked, "--sensitivity", "--plot-uncertainty", str(figure))
    assert figure.stat().st_size > 20_000
    said = answer["distribution"]
    assert {"n_layer", "d_model", "n_head", "n_kv_head", "probability"} <= set(said["configurations"][0])
    assert sum(row["probability"] for row in said["configurations"]) <= 1 + 1e-9
    moves = {move["name"]: move for move in answer["sensitivity"]}
    assert moves["limit of n_params_total"]["cost"] < 0
    assert "n_layer" in moves["target_loss"]["others"]


def test_a_field_that_the_law_cannot_see_is_refused(capsys):
    assert main([*ASKED, "--free", "d_model"]) == 2
    assert "d_model is free, but the law cannot see it" in capsys.readouterr().err
    assert main([*ASKED, "--free", "depth"]) == 2
    assert "free 'depth' is not known" in capsys.readouterr().err
