"""`scalesim train`: one model or a grid, to a table that `scalesim fit` reads."""

import csv
import json
from pathlib import Path

import pytest

from scalesim.cli import main

TINY = ["--shape", "1x16x4x2", "--head-dim", "8", "--context", "16", "--batch-tokens", "256"]

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(200):
        (folder / f"{i}.txt").write_text(f"document {i} says {i * i}\n" * 20)
    return str(folder)


def call(capsys, *args):
    code = main(["train", *args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_one_model_to_a_table_and_to_transformers_format(capsys, tmp_path, corpus):
    args = [*TINY, "--tokens", "4K", "--corpus", corpus, "--folder", str(tmp_path / "run")]
    code, out, err = call(capsys, *args, "--export", str(tmp_path / "model"), "--json")
    row = json.loads(out)
    assert code == 0
    assert row["status"] == "finished"
    assert row["n_tokens"] == 4096
    assert row["loss"] < 5.6
    assert "documents" in err
    with (tmp_path / "run" / "runs.csv").open() as file:
        assert next(csv.DictReader(file))["run_id"] == row["run_id"]
    from scalesim.interop import load_weights

    assert load_weights(tmp_path / "model").shape.n_params_total == row["n_params_total"]
    # Again: it is finished, and says the same.
    code, out, _ = call(capsys, *args)
    assert code == 0
    assert f"{row['loss']:.4f}" in out
    assert "nan" not in out + (tmp_path / "run" / "runs.csv").read_text()


@pytest.mark.slow
def test_fewer_tokens_than_a_step_are_said(capsys, tmp_path, corpus):
    code, out, err = call(capsys, *TINY, "--tokens", "20", "--corpus", corpus, "--folder", str(tmp_path))
    assert code == 0
    assert "A step takes 256: 256 tokens will be trained on, not 20." in err
    assert "nan" not in out


@pytest.mark.slow
def test_a_grid_names_its_table(capsys, tmp_path, corpus, monkeypatch):
    import scalesim.training.grid as grid

    path = tmp_path / "grid.toml"
    path.write_text(
        f"corpus = '{corpus}'\nfolder = '{tmp_path / 'out'}'\n"
        "[[runs]]\nn_layer = 1\nd_model = 16\nd_ff = 32\n"
        "heads = [[2, 1], [4, 1]]\nhead_dim = 8\ncontext_length = 16\nn_tokens = 512\nbatch_tokens = 256\n"
        "validation_tokens = 1024\n"
    )

    class Here:
        """Runs in this process: that workers do the same is tested elsewhere."""

        def __init__(self, *_, initializer, initargs, **__):
            grid._reports = initargs[2]
            self._processes = {}

        def submit(self, function, *args):
            from concurrent.futures import Future

            future = Future()
            future.set_result(function(*args))
            return future

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(grid, "ProcessPoolExecutor", Here)
    code, out, _ = call(capsys, str(path), "--json")
    said = json.loads(out)
    assert code == 0
    assert said["runs"] == 2
    assert said["diverged"] == []
    assert len(Path(said["table"]).read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--context", "12"], 2, "batch_tokens must be a multiple of context_length = 12"),
        (["--tokens", "none"], 2, "tokens 'none' is not a size"),
        (["--corpus", "/absent"], 2, "no file or folder"),
        (["--shape", "llama-9"], 2, "is not known"),
        (["--tensor", "2"], 2, "tensor must be 1 on one device"),
        (["absent.toml"], 2, "cannot be read"),
        (["--context", "256K", "--batch-tokens", "262144"], 2, "context_length 262144 needs"),
    ],
)
def test_mistakes_get_a_sentence(capsys, corpus, args, code, says):
    plain = [*TINY, "--corpus", corpus]
    for option in args[::2]:  # given once
        if option in plain:
            del plain[plain.index(option) : plain.index(option) + 2]
    plain = [] if args[0].endswith(".toml") else plain
    got, _, err = call(capsys, *plain, *args)
    assert got == code
    assert says in err
