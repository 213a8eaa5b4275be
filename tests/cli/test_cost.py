"""`scalesim cost` and `scalesim compare`: one JSON object, tables, figures, and errors in a sentence."""

import json
import re

import pytest

from scalesim.cli import main
from scalesim.interop import to_huggingface
from scalesim.models import known_model

KEYS = {
    "n_params_total", "n_params_active", "kv_bytes_per_token", "weight_bytes", "memory_bytes",
    "ttft_s", "tpot_s", "throughput_tokens_per_s", "dollars_per_million_tokens", "operators",
}  # fmt: skip


def call(capsys, *args):
    code = main(list(args))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def report(capsys, *args):
    code, out, _ = call(capsys, *args, "--json")
    assert code == 0
    assert out.count("\n") == 1
    return json.loads(out)


def test_cost_of_a_model_has_its_keys(capsys):
    got = report(
        capsys,
        "cost",
        "--model",
        "llama-3.1-8b",
        "--hardware",
        "h100-sxm",
        "--context",
        "32K",
        "--batch",
        "8",
    )
    assert set(got) >= KEYS
    assert got["n_params_total"] == 8030261248
    assert got["kv_bytes_per_token"] == 131072
    assert got["context_length"] == 32768
    assert got["memory_bytes"] == pytest.approx(sum(got["memory_bytes_parts"].values()))
    decode = got["operators"]["decode"]
    assert sum(o["time_s"] for o in decode) == pytest.approx(got["tpot_s"], rel=1e-5)
    assert {o["name"]: o["bound"] for o in decode}["attention"] == "memory"
    assert got["throughput_tokens_per_s"] == pytest.approx(8 / got["tpot_s"], rel=1e-5)
    assert got["paper"]["memory_bytes"]["total"] < got["memory_bytes"]


def test_cost_without_options_is_of_the_papers_baseline(capsys):
    got = report(capsys, "cost")
    assert got["shape"]["n_kv_head"] == 8
    assert got["paper"]["z"] == pytest.approx(81430, rel=1e-4)


def test_cost_of_a_config_names_unknown_fields_on_standard_error(capsys, tmp_path):
    path = tmp_path / "config.json"
    config = {**to_huggingface(known_model("llama-3.2-1b").shape), "kv_sharing": True}
    path.write_text(json.dumps(config))
    code, out, err = call(capsys, "cost", "--config", str(path), "--json")
    assert code == 0
    assert "kv_sharing" in err
    assert json.loads(out)["n_params_total"] == 1235814400


def test_a_shape_is_written_as_a_config_and_read_again(capsys, tmp_path):
    path = tmp_path / "config.json"
    first = report(capsys, "cost", "--shape", "19x2624x12x1x6464", "--write-config", str(path))
    again = report(capsys, "cost", "--config", str(path))
    assert again["shape"] == first["shape"]
    assert again["tpot_s"] == first["tpot_s"]


def test_what_does_not_fit_says_so_and_is_counted_all_the_same(capsys):
    args = ("cost", "llama-2-7b", "--batch", "99")
    got = report(capsys, *args)
    assert not got["fits"]
    assert "does not fit on 1 x H100-SXM" in got["unfit"]
    assert got["tpot_s"] is None
    assert got["counts"]["cache_bytes"]["1024"] == 1024 * 524288
    code, out, _ = call(capsys, *args)
    assert code == 0
    for words in ("does not fit", "batch_size", "would fit", "by kind of layer", "FLOPs of one token"):
        assert words in out


def test_a_quantised_config_is_costed_as_it_is_stored(capsys, tmp_path):
    config = {**to_huggingface(known_model("llama-3-8b").shape)}
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    got = report(capsys, "cost", str(tmp_path))
    assert got["fits"]
    assert got["weight_bits"] == pytest.approx(4.156, abs=1e-3)
    assert got["weight_bytes"] == pytest.approx(5.73e9, rel=0.01)
    full = report(capsys, "cost", str(tmp_path), "--weight-bits", "16")
    assert full["weight_bytes"] == 2 * 8030261248


@pytest.mark.slow
def test_the_pool_of_an_engine_is_counted_where_asked_for(capsys):
    args = ("cost", "gpt-oss-20b", "--context", "8K", "--batch", "32")
    exact, pool = report(capsys, *args), report(capsys, *args, "--kv-pool")
    assert pool["memory_bytes_parts"]["kv_cache"] == pytest.approx(12.00 * 2**30, rel=1e-3)
    assert exact["memory_bytes_parts"]["kv_cache"] == pytest.approx(6.09 * 2**30, rel=1e-3)


def test_tables_are_for_people(capsys, tmp_path):
    figure = tmp_path / "roof.svg"
    args = ("--model", "mixtral-8x7b-v0.1", "--tensor", "4", "--generated", "512", "--plot", str(figure))
    code, out, _ = call(capsys, "cost", *args)
    assert code == 0
    for words in (
        "experts",
        "all-reduce",
        "time to first token (no queueing)",
        "tokens/s generated",
    ):
        assert words in out
    assert b"<svg" in figure.read_bytes()


def test_an_accelerator_that_was_not_measured_is_less_certain(capsys):
    def width(hardware):
        out = call(capsys, "cost", "--hardware", hardware)[1]
        low, high = re.search(r"per output token .*\(90%: ([\d.]+) ms to ([\d.]+) ms\)", out).groups()
        return float(high) / float(low)

    assert width("mi300x") > width("h100") > 1


def test_an_accelerator_that_was_not_measured_says_so(capsys):
    assert "its kernels were not measured" in call(capsys, "cost", "--hardware", "mi300x")[1]
    said = call(capsys, "cost", "--hardware", "h100")[1]
    assert "Borrowed constants" not in said
    assert "(90%: " in said


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--model", "llama-4"], 2, "model 'llama-4' is not known"),
        (["--model", "gpt2", "--shape", "1x64x1x1"], 2, "only one of --shape, --model and --config"),
        (
            ["--model", "gpt2", "--context", "2K"],
            2,
            "context must be at most 1024, what openai-community/gpt2",
        ),
        (["--model", "gpt2", "--hardware", "a1000"], 2, "hardware 'a1000' is not known"),
        (["--model", "llama-3-8b", "--tensor", "3"], 2, "tensor must divide n_head = 32, but is 3"),
        (
            ["--model", "gpt2", "--hardware", "a100", "--compute", "fp8"],
            2,
            "compute 'fp8' has no matrix units",
        ),
        (["--shape", "1x2"], 2, "baseline '1x2' is not known"),
        (["--config", "model.yaml"], 2, "config 'model.yaml' must be a .json file"),
        (["--model", "gpt2", "--plot", "roof.txt"], 2, "plot 'roof.txt' has no known format"),
        (
            ["--model", "gpt2", "--generated", "2K"],
            2,
            "generated_length must be below context_length = 1024",
        ),
        (["--write-config", "out.json"], 2, "d_ff must be a whole number in a config.json, but is 5461.33"),
        (
            ["--shape", "1x64x1x1x128", "--write-config", "/dev/null/where.json"],
            2,
            "config '/dev/null/where.json' cannot be written",
        ),
        (["--model", "gpt2", "--batch", "0"], 2, "batch_size must be above 0"),
        (["--model", "gpt2", "--batch", "nan"], 2, "batch_size must be above 0 and finite, but is nan"),
        (["--model", "gpt2", "--kv-bits", "inf"], 2, "kv_bits must be above 0 and finite, but is inf"),
        (["--model", "gpt2", "--weights", "2"], 2, "memory_weight must be"),
        (["--model", "gpt2", "--acceptance-length", "2"], 2, "must be given together"),
        (["--model", "gpt2", "--prefill-tensor", "2"], 2, "must be given with --disaggregated"),
        (["--model", "gpt2", "--request-rate", "2"], 2, "generated_length must be given"),
        (["--model", "gpt2", "--generated", "64", "--request-rate", "1e6"], 1, "more than can be served"),
    ],
)
def test_mistakes_are_a_sentence(capsys, args, code, says):
    got, out, err = call(capsys, "cost", *args)
    assert got == code
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


LOAD = ("cost", "llama-3-8b", "--context", "4K", "--generated", "512", "--batch", "64")


def test_an_engine_is_asked_in_its_own_words(capsys):
    got = report(
        capsys, *LOAD, "--request-rate", "2", "--target-tpot", "0.02", "--num-speculative-tokens", "4",
        "--acceptance-length", "3", "--draft", "llama-3.2-1b", "--disaggregated", "--prefill-tensor", "2",
    )["engine"]  # fmt: skip
    assert got["concurrency"]["concurrency"] == pytest.approx(64)
    assert got["request_rate"]["requests_per_s"] == pytest.approx(2)
    assert got["targets"]["tpot_s"] == pytest.approx(0.02, rel=0.01)
    assert got["targets"]["concurrency"] > 10
    apart = got["disaggregated"]
    assert got["speculative"]["tpot_s"] < 1.2 * apart["tpot_s"] < got["concurrency"]["tpot_s"]
    assert apart["prefill_per_decode"] < 1


def test_an_engine_is_chosen(capsys):
    small = ("cost", "qwen3-0.6b", "--context", "1K")
    plain, newer, eager = (
        report(capsys, *small, *more)["tpot_s"]
        for more in ((), ("--engine", "vllm-2026"), ("--engine", "vllm-2026", "--enforce-eager"))
    )
    assert newer < plain < eager
    chunked = report(capsys, *LOAD, "--max-num-batched-tokens", "2K")
    assert chunked["prefill_chunk"] == 2048


def test_loads_are_told_to_people(capsys):
    code, out, _ = call(capsys, *LOAD, "--request-rate", "2", "--disaggregated")
    assert code == 0
    assert "at that request rate (approximate): 2 requests/s" in out
    assert "prefill instances to one that decodes" in out


def test_compare_puts_designs_side_by_side(capsys, tmp_path):
    figure = tmp_path / "compare.png"
    designs = ("16x2048x32x8", "36x2048x8x1", "llama-2-7b")
    got = report(capsys, "compare", *designs, "--context", "4K,128K", "--batch", "4", "--plot", str(figure))
    paper, optimum, llama = got["designs"]
    assert [at["context_length"] for at in paper["contexts"]] == [4096, 131072]
    # At 128K the paper's optimum has fewer bytes, FLOPs and milliseconds, and no higher loss.
    for key in ("memory_bytes", "flops_per_token", "ttft_s"):
        assert optimum["contexts"][1][key] < paper["contexts"][1][key]
    assert optimum["loss"]["value"] < paper["loss"]["value"]
    low, high = paper["loss"]["interval"]
    assert low < paper["loss"]["value"] < high
    assert llama["loss"] is None
    assert llama["contexts"][0]["fits"]
    assert not llama["contexts"][1]["fits"]
    assert llama["contexts"][1]["tpot_s"] is None
    assert llama["contexts"][1]["beyond_max_context"]
    assert figure.read_bytes()[:4] == b"\x89PNG"


def test_compare_prints_a_table_a_context(capsys):
    code, out, _ = call(
        capsys, "compare", "llama-3-8b", "16x2048x32x8", "--context", "8K", "--context", "32K"
    )
    assert code == 0
    for words in ("at 8K", "at 32K", "$/M generated", "beyond the context that the model was made for"):
        assert words in out


def test_compare_needs_designs(capsys):
    code, _, err = call(capsys, "compare", "nothing-1b")
    assert code == 2
    assert "model 'nothing-1b' is not known" in err
