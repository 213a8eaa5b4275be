"""`scalesim calibrate`: timings in, hardware out, and errors that name the line."""

import json

import pytest

from scalesim.cli import main
from scalesim.cost import step_time
from scalesim.hardware import load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload


def test_adjusted_hardware_serves_the_other_commands(capsys, tmp_path):
    shape, h100 = known_model("llama-3-8b").shape, load_hardware("h100")
    lines = ["model,context,batch,seconds"]
    for batch in (1, 16, 32):
        seconds = 1.3 * float(step_time(shape, Workload(context_length=4096, batch_size=batch), h100))
        lines.append(f"llama-3-8b,4K,{batch},{seconds}")
    (tmp_path / "timings.csv").write_text("\n".join(lines))
    out = tmp_path / "mine.json"
    assert (
        main(["calibrate", str(tmp_path / "timings.csv"), "--hardware", "h100", "--out", str(out), "--json"])
        == 0
    )
    got = json.loads(capsys.readouterr().out)
    assert got["relative_error"] < 0.02 < got["relative_error_before"]
    mine = load_hardware(str(out))
    assert mine.to_dict() == got["hardware"]
    args = ["cost", "--model", "llama-3-8b", "--context", "4K", "--batch", "16", "--json", "--hardware"]
    tpot = []
    for hardware in ("h100", str(out)):
        assert main([*args, hardware]) == 0
        tpot.append(json.loads(capsys.readouterr().out)["tpot_s"])
    assert tpot[1] / tpot[0] == pytest.approx(1.3, rel=0.03)


def test_kernels_are_scored_without_fitting(capsys, tmp_path):
    lines = ["m,n,k,gemm_dtype,latency", "1,4096,4096,bfloat16,0.0123", "4096,4096,4096,bfloat16,0.21"]
    (tmp_path / "gemm.csv").write_text("\n".join(lines))
    args = ["calibrate", "--kernels", str(tmp_path / "gemm.csv"), "--hardware", "h200-sxm"]
    assert main([*args, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["rows"] == 2
    assert set(got) >= {"mean_error", "median_error", "bias", "interval_holds"}
    assert got["constants"] == "fitted"
    assert got["mean_error"] < 0.5
    out = tmp_path / "mine.json"
    assert main([*args, "--out", str(out)]) == 0
    assert "2 gemm bf16 kernels" in capsys.readouterr().out
    assert load_hardware(str(out)).bandwidth_gbs == 4800


def test_milliseconds_are_asked_about(capsys, tmp_path):
    (tmp_path / "timings.csv").write_text("model,context,seconds\nllama-3-8b,4K,9.1\nllama-3-8b,8K,9.4\n")
    assert main(["calibrate", str(tmp_path / "timings.csv"), "--hardware", "h100"]) == 2
    assert "must be in seconds" in (said := capsys.readouterr().err)
    assert "are they milliseconds?" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("model,context\ngpt2,1K\n", "has no column 'seconds'"),
        ("model,context,seconds,batchsize\ngpt2,1K,1,1\n", "column 'batchsize' is not known"),
        ("model,context,seconds\ngpt2,1K,1\ngpt9,1K,1\n", "row 2: model 'gpt9' is not known"),
        ("model,context,seconds\ngpt2,1K,soon\n", "row 1: seconds must be a number, but is 'soon'"),
        ("model,context,seconds\ngpt2,1K,-1\n", "row 1: seconds must be above 0"),
        ("model,context,seconds\ngpt2,,1\n", "row 1: context '' is not a size"),
        ("model,context,seconds,what\ngpt2,1K,1,itl\n", "row 1: what 'itl' is not known"),
        ("model,context,seconds,tensor\ngpt2,1K,1,1.5\n", "row 1: tensor must be a whole number"),
        ("model,context,seconds,what\ngpt2,1K,1,generation\n", "row 1: generated_length must be given"),
    ],
)
def test_mistakes_name_the_row(capsys, tmp_path, text, says):
    path = tmp_path / "timings.csv"
    path.write_text(text)
    assert main(["calibrate", str(path)]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
