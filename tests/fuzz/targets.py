"""Everything that reads a person's file: a good one of each kind, how it is damaged, what comes of it."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from tests.fuzz.mutate import of_bytes, of_json, of_text

GOLDEN = Path(__file__).parent.parent / "interop" / "golden"
DATA = Path(ss.__file__).parent / "data"


@dataclass(frozen=True)
class Target:
    """A reader: a file it reads, ways to damage it, and the reading, which returns numbers to look at."""

    name: str
    file: str
    content: bytes
    damages: tuple[Callable[..., bytes], ...]
    read: Callable[[Path], Any]
    beside: Path | None = None


def _runs() -> dict[str, list[float]]:
    generator = np.random.default_rng(0)
    n = 10 ** generator.uniform(7.5, 9.5, 24)
    d = n * 10 ** generator.uniform(0.7, 2.0, 24)
    loss = 1.8 + 400 / n**0.34 + 1800 / d**0.36
    return {
        "n_params": [float(round(x)) for x in n],
        "n_tokens": [float(round(x)) for x in d],
        "flops": [float(f"{6 * a * b:.4g}") for a, b in zip(n, d, strict=True)],
        "loss": [round(float(x), 4) for x in loss],
    }


def _table(separator: str, comma: bool = False) -> bytes:
    runs = _runs()
    lines = [separator.join(runs)]
    for row in zip(*runs.values(), strict=True):
        cells = [f"{v:.0f}" if v > 100 else f"{v:.4f}" for v in row]
        lines.append(separator.join(c.replace(".", ",") if comma else c for c in cells))
    return "\n".join(lines).encode() + b"\n"


def _csv(columns: dict[str, list[Any]]) -> bytes:
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]).encode()


def _records() -> list[dict[str, float]]:
    runs = _runs()
    return [dict(zip(runs, row, strict=True)) for row in zip(*runs.values(), strict=True)]


def _parquet(columns: dict[str, Any]) -> bytes:
    import polars as pl

    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


def _saved(write: Callable[[Any], None]) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def _read_runs(path: Path) -> list[np.ndarray]:
    runs = ss.load_runs(path)
    return [runs.loss, *runs.columns.values()]


def _read_law(path: Path) -> list[Any]:
    from scalesim.fitting.named import load_fit

    fit = load_fit(path)
    finite = [value for value in fit.coefficients.values() if value is not None]
    return [*finite, *([] if fit.bootstrap is None else fit.bootstrap.coefficients.values())]


def _read_archive(path: Path) -> list[Any]:
    from scalesim.fitting.saved import read_archive

    return [read_archive(path, 5)[1]["z"]]


def _read_hardware(path: Path) -> list[Any]:
    from scalesim.cost import serving_cost

    hardware = ss.load_hardware(str(path))
    cost = serving_cost(ss.known_model("gpt2").shape, ss.Workload(context_length=1024), hardware)
    return [cost.memory.total, cost.serving.tpot_s]


def _read_grid(path: Path) -> list[Any]:
    from scalesim.training.grid_file import load_grid

    return [run.learning_rate for run in load_grid(path).runs]


def _read_timings(path: Path) -> list[Any]:
    from scalesim.cli.calibrate import read_timings

    return [timing.seconds for timing in read_timings(str(path))]


def _read_contrasts(path: Path) -> list[Any]:
    table = ss.load_contrasts(path)
    return [table.loss_a, table.loss_b]


def _read_kernels(path: Path) -> list[Any]:
    from scalesim.cost.kernel_tables import read_kernel_table

    return [values for rows in read_kernel_table(str(path)) for values in rows.table.values()]


def _read_own_table(path: Path) -> list[Any]:
    from scalesim.training.table import check_own

    check_own(path)
    return []


def _read_corpus(path: Path) -> list[Any]:
    from scalesim.training import load_corpus

    corpus = load_corpus(path)
    assert len(corpus.train)
    assert len(corpus.validation)
    assert int(corpus.train.max()) < corpus.vocab_size
    return []


def _read_checkpoint(path: Path) -> list[Any]:
    from scalesim.sweeps.checkpoint import read_checkpoint

    read_checkpoint(path, {"law": "x"})
    return []


def _read_weights(path: Path) -> list[Any]:
    from scalesim.interop import load_weights

    return list(load_weights(path.parent).params.values())


def _read_config(path: Path) -> list[Any]:
    from scalesim.interop import read_config

    return [float(read_config(str(path)).shape.n_params_total)]


def _checkpoint() -> bytes:
    import tempfile

    from scalesim.sweeps.checkpoint import Checkpoint, write_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "s", Checkpoint({"law": "x"}, 3, 1.0, 50, False, np.zeros((1, 4, 9))))
        return (Path(folder) / "s").read_bytes()


def _law() -> bytes:
    raw = json.loads((DATA / "law_points.json").read_text())
    spread = raw["bootstrap"]
    spread["samples"] = {k: v[:6] if isinstance(v, list) else v for k, v in spread["samples"].items()}
    spread["objectives"], spread["resamples"] = spread["objectives"][:6], 6
    return json.dumps(raw).encode()


def _contrasts() -> bytes:
    lines = (DATA / "head_contrasts.csv").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).encode()


KERNELS: dict[str, list[Any]] = {
    "m": [1, 8, 64, 512, 4096],
    "n": [4096, 8192, 4096, 14336, 4096],
    "k": [4096, 4096, 1024, 4096, 8192],
    "gemm_dtype": ["bfloat16"] * 4 + ["fp8"],
    "latency": [0.01, 0.02, 0.02, 0.1, 0.4],
}

GRID = b"""corpus = "stdlib"
folder = "out"
[defaults]
head_dim = 8
batch_tokens = 64
learning_rate = [0.01, 0.02]
[[runs]]
n_layer = 1
d_model = 16
d_ff = 32
heads = [[2, 1], [2, 2]]
context_length = 16
n_tokens = 256
seed = [0, 1]
schedule = "cosine"
"""
OWN_TABLE = b"run_id,n_params,n_tokens,loss,status\na1,1000,20000,3.5,finished\nb2,2000,40000,3.25,finished\n"
TIMINGS = b"""model,context,seconds,batch
llama-3-8b,4096,0.012,1
llama-3-8b,8K,0.0125,2
16x2048x8x1,4096,0.006,1
"""
TEXT = b"\n\n".join(f"document {i} says {i * i} and no more than that".encode() for i in range(60))
JSONL = b"\n".join(json.dumps({"text": f"document {i} says {i * i}"}).encode() for i in range(60))
TRAINER = json.dumps(
    {
        "global_step": 30,
        "log_history": [
            {
                "step": s,
                "eval_loss": 4.0 - s / 100,
                "num_input_tokens_seen": s * 10**6,
                "total_flos": s * 1e15,
            }
            for s in range(1, 30)
        ],
    }
).encode()


def targets() -> list[Target]:
    """Return every reader."""
    any_bytes, any_json, any_text = (of_bytes,), (of_json, of_json, of_bytes), (of_text, of_text, of_bytes)
    tokens = np.arange(3000) % 500
    numbers: dict[str, Any] = {
        "key": "k",
        "z": np.ones((8, 5)),
        "objective": np.ones(8),
        "gradient_norm": np.zeros(8),
    }
    hardware = {"name": "mine", "bf16_tflops": 400, "memory_gb": 48, "bandwidth_gbs": 1800}
    measured = json.loads((DATA / "efficiency.json").read_text())["cards"]["h100"]["efficiency"]
    found = [
        Target("table, commas", "runs.csv", _table(","), any_text, _read_runs),
        Target("table, semicolons", "runs.csv", _table(";", comma=True), any_text, _read_runs),
        Target("table, tabs", "runs.tsv", _table("\t"), any_text, _read_runs),
        Target("table, JSON", "runs.json", json.dumps(_records()).encode(), any_json, _read_runs),
        Target("table, columns", "runs.json", json.dumps(_runs()).encode(), any_json, _read_runs),
        Target("table, trainer's log", "trainer_state.json", TRAINER, any_json, _read_runs),
        Target(
            "table, JSON lines",
            "runs.jsonl",
            "\n".join(map(json.dumps, _records())).encode(),
            any_text,
            _read_runs,
        ),
        Target("table, Parquet", "runs.parquet", _parquet(_runs()), any_bytes, _read_runs),
        Target("comparisons", "pairs.csv", _contrasts(), any_text, _read_contrasts),
        Target("kernels, commas", "gemm.csv", _csv(KERNELS), any_text, _read_kernels),
        Target("kernels, Parquet", "gemm.parquet", _parquet(KERNELS), any_bytes, _read_kernels),
        Target("table of training", "runs.csv", OWN_TABLE, any_text, _read_own_table),
        Target("timings", "timings.csv", TIMINGS, any_text, _read_timings),
        Target("law", "law.json", _law(), any_json, _read_law),
        Target("resamples", "b.npz", _saved(lambda o: np.savez(o, **numbers)), any_bytes, _read_archive),
        Target("hardware", "hw.json", json.dumps(hardware).encode(), any_json, _read_hardware),
        Target(
            "hardware, measured",
            "hw.json",
            json.dumps({**hardware, "efficiency": measured}).encode(),
            any_json,
            _read_hardware,
        ),
        Target("grid", "grid.toml", GRID, any_text, _read_grid),
        Target("corpus, text", "c.txt", TEXT, any_text, _read_corpus),
        Target("corpus, JSON lines", "c.jsonl", JSONL, any_text, _read_corpus),
        Target("corpus, gzip", "c.txt.gz", gzip.compress(TEXT, mtime=0), any_bytes, _read_corpus),
        Target("corpus, array", "c.npy", _saved(lambda o: np.save(o, tokens)), any_bytes, _read_corpus),
        Target("corpus, 16 bits", "c.bin", tokens.astype("<u2").tobytes(), any_bytes, _read_corpus),
        Target(
            "corpus, Parquet",
            "c.parquet",
            _parquet({"text": [f"text {i}" for i in range(60)]}),
            any_bytes,
            _read_corpus,
        ),
        Target("sweep's checkpoint", "state", _checkpoint(), any_bytes, _read_checkpoint),
        Target(
            "weights",
            "model.safetensors",
            (GOLDEN / "llama" / "model.safetensors").read_bytes(),
            any_bytes,
            _read_weights,
            GOLDEN / "llama",
        ),
        Target(
            "weights' config",
            "config.json",
            (GOLDEN / "llama" / "config.json").read_bytes(),
            any_json,
            _read_weights,
            GOLDEN / "llama",
        ),
        Target(
            "config", "config.json", (GOLDEN / "llama" / "config.json").read_bytes(), any_json, _read_config
        ),
    ]
    return found


def laid_out(target: Target, folder: Path, content: bytes) -> Path:
    """Write a target's file into a folder, beside what it needs."""
    if target.beside is not None:
        for path in target.beside.iterdir():
            shutil.copy(path, folder)
    path = folder / target.file
    path.write_bytes(content)
    return path
