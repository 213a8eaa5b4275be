"""`scalesim redesign`, `cost --best-plan` and `design --target-loss like:`: one command, one answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalesim.cli import main
from scalesim.interop import to_huggingface
from scalesim.models import known_model

FIRST = (
    "redesign",
    "llama-3.1-8b",
    "--tokens",
    "15T",
    "--context",
    "128K",
    "--batch",
    "16",
    "--kv-bits",
    "8",
)


def call(capsys, *args):
    code = main(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def answer(capsys, *args):
    code, out, err = call(capsys, *args, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


@pytest.mark.slow
def test_the_first_command_of_the_docs(capsys):
    code, out, _ = call(capsys, *FIRST)
    assert code == 0
    for word in ("own", "best", "safest", "small change", "32 : 8 of 128", "saved", "Caution:", "The choice"):
        assert word in out
    found = answer(capsys, *FIRST)
    assert found["own"]["n_params_total"] == 8030261248
    assert found["savings"]["price"]["low"] > 0.3
    assert len(found["over_context"]) == 10
    assert len(found["what_if"]) >= 5


@pytest.mark.slow
def test_a_config_a_mixture_of_contexts_and_traffic(capsys, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_huggingface(known_model("llama-3.2-1b").shape, max_context=131072)))
    out = tmp_path / "better"
    asked = ("--tokens", "2T", "--context", "8K:0.7", "64K:0.3", "--generated", "1K", "--traffic", "1T")
    found = answer(capsys, "redesign", str(path), *asked, "--out", str(out))
    assert found["objective"] == "lifetime"
    assert found["question"]["serving"].startswith("context 8K:0.7 64K:0.3")
    assert found["best"]["cost"]["lifetime_usd"] <= found["own"]["cost"]["lifetime_usd"]
    assert (out / "report.html").exists()


@pytest.mark.slow
def test_sizes_alone_are_a_model(capsys):
    """The paper's FFN of 8/3 of the width is no whole size: it is made one."""
    found = answer(
        capsys, "redesign", "16x2048x32x8", "--tokens", "100B", "--context", "32K", "--kv-bits", "8"
    )
    assert found["own"]["shape"]["d_ff"] == 5440
    assert found["best"]["n_params_total"] > 0


@pytest.mark.slow
def test_budgets_in_flops_and_dollars_are_those_in_tokens(capsys):
    by_tokens = answer(capsys, *FIRST)
    flops = by_tokens["own"]["training_flops"]
    dollars = by_tokens["own"]["cost"]["training_usd"]
    rest = FIRST[4:]
    for option, value in (("--training-flops", flops), ("--training-dollars", dollars)):
        found = answer(capsys, *FIRST[:2], option, repr(value), *rest)
        assert found["own"]["n_tokens"] == pytest.approx(15e12, rel=1e-6)
        assert found["best"]["shape"] == by_tokens["best"]["shape"]


@pytest.mark.slow
def test_equivalent_compute_asks_for_a_lower_loss(capsys):
    found = answer(capsys, *FIRST, "--loss", "1.5x")
    assert found["best"]["loss_percent"] < -0.3
    assert found["best"]["equivalent_compute"] == pytest.approx(1.5, rel=0.1)


@pytest.mark.slow
def test_runs_of_ones_own_sharpen_it(capsys, tmp_path: Path):
    runs = tmp_path / "runs.csv"
    runs.write_text(
        "n_params,n_head,n_kv_head,head_dim,n_tokens,loss\n"
        + "".join(f"8.5e7,8,{k},64,1.7e9,{y}\n" for k, y in ((8, 2.8), (1, 2.9), (2, 2.86)))
    )
    plain, mine = answer(capsys, *FIRST), answer(capsys, *FIRST, "--runs", str(runs))
    assert mine["best"]["n_params_total"] > plain["best"]["n_params_total"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("llama-3.1-8b",), 2, "one of --tokens, --training-flops, --training-dollars"),
        (("llama-3.1-8b", "--tokens", "1T", "--training-flops", "1e24"), 2, "2 are given"),
        (("llama-9b", "--tokens", "1T"), 2, "did you mean"),
        (("llama-3.1-8b", "--tokens", "1T", "--loss", "better"), 2, "+0%, -1% or 1.2x"),
        (("llama-3.1-8b", "--tokens", "1T", "--context", "8K:1", "16K"), 2, "a weight for some lengths"),
        (("llama-3.1-8b", "--tokens", "1T", "--context", "8K", "16K"), 2, "takes one length"),
        (("llama-3.1-8b", "--tokens", "1T", "--max-tpot", "1e-6"), 1, "tpot is at least"),
        (("llama-3.1-8b", "--tokens", "1T", "--runs", "a", "--contrasts", "b"), 2, "exclude each other"),
    ],
)
def test_wrong_calls_are_answered_in_a_sentence(capsys, args, code, words):
    got, out, err = call(capsys, "redesign", *args)
    assert (got, out) == (code, "")
    assert words in err
    assert err.count("Traceback") == 0


def test_cost_chooses_the_cheapest_deployment(capsys):
    found = answer(capsys, "cost", "llama-3.1-70b", "--context", "32K", "--batch", "32", "--best-plan")
    assert found["devices"] * found["plan"]["deployment"]["replicas"] >= 4
    assert found["fits"]
    code, out, err = call(capsys, "cost", "llama-3.1-70b", "--best-plan", "--tensor", "8")
    assert code == 2
    assert "chooses the parallelism" in err
    code, out, _ = call(capsys, "cost", "llama-3.1-70b", "--context", "32K", "--batch", "32", "--best-plan")
    assert code == 0
    assert "Served on" in out


def test_a_target_loss_may_be_a_models(capsys):
    code, out, err = call(
        capsys, "design", "--target-loss", "like:llama-3.2-1b@9T", "--baseline", "llama-3.2-1b", "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert "does not see training tokens" in err
    assert "predicts 2.58" in err
    assert found["baseline"]["shape"]["d_ff"] == 8192
    code, _, err = call(capsys, "design", "--target-loss", "liek:llama")
    assert code == 2
    assert "like:MODEL@TOKENS" in err
    code, _, err = call(capsys, "design", "--baseline", "llama-9b")
    assert code == 2
    assert "llama3-gqa, mha, mqa" in err
    assert "did you mean" in err
