"""Each long job killed and interrupted at ten random moments: the same answer, nobody left, exit codes."""

import csv
import json
import random
import signal
import socket
import subprocess
import time
from importlib import import_module

import numpy as np
import pytest

import scalesim as ss
from scalesim.training.checkpoint import Checkpoints
from tests.processes import LONGEST, left_of, started, waited_for

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ENDS = {  # "before the command began", Python's own answer, too
    signal.SIGINT: {130, -signal.SIGINT},
    signal.SIGTERM: {130, -signal.SIGTERM},
    signal.SIGKILL: {-signal.SIGKILL},
}
MOMENTS = 10
SIZES = ["--shape", "1x16x2x1", "--head-dim", "8", "--context", "16", "--batch-tokens", "64"]
GRID = """
corpus = "text.txt"
folder = "out"
[defaults]
head_dim = 8
batch_tokens = 64
n_layer = 1
d_model = 16
d_ff = 32
heads = [[2, 1]]
context_length = 16
n_tokens = 120000
[[runs]]
seed = [0, 1]
[[runs]]
seed = [2]
learning_rate = 0.001
"""


def printed(folder, text):
    """Return a printed answer without what it took."""
    found = json.loads(text)
    return {name: value for name, value in found.items() if "second" not in name}


def trained(folder, text):
    return json.loads(text)["loss"]


def grid_table(folder, text):
    rows = csv.DictReader((folder / "out" / "runs.csv").read_text().splitlines())
    return [(row["run_id"], row["loss"]) for row in rows]


JOBS = {
    "train": (["train", *SIZES, "--tokens", "400000", "--corpus", "text.txt", "--folder", "out"], trained),
    "grid": (["train", "grid.toml", "--workers", "2"], grid_table),
    "bootstrap": (
        [
            *("fit", "paper", "--law", "power", "--fix", "E=1.97", "--starts", "8"),
            *("--bootstrap", "20000", "--resume", "kept.npz"),
        ],
        printed,
    ),
    "sweep": (["sweep", "--count", "300M", "--checkpoint", "state", "--every", "0"], printed),
    "redesign": (["redesign", "llama-3.1-8b", "--tokens", "15T", "--context", "128K"], printed),
}


def laid_out(folder):
    folder.mkdir()
    text = "\n\n".join(f"document {i} says {i * i}, and {i * i * i} too" for i in range(4000))
    (folder / "text.txt").write_text(text)
    (folder / "grid.toml").write_text(GRID)
    return folder


def ended(running, kind, seconds):
    """Send a signal after some seconds, if the job is still there; return what it printed and said."""
    try:
        out, said = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        running.send_signal(kind)
        out, said = running.communicate(timeout=LONGEST)
    assert "Traceback" not in said or running.returncode == -signal.SIGINT, said
    return out, said


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_job_killed_at_ten_moments_answers_the_same(job, tmp_path):
    command, answer = JOBS[job]
    whole, folder = laid_out(tmp_path / "whole"), laid_out(tmp_path / "killed0")
    began, plain = time.monotonic(), started(*command, "--json", cwd=whole)
    out, said = plain.communicate(timeout=LONGEST)
    took = time.monotonic() - began
    assert plain.returncode == 0, said
    reference, draw, codes, new = answer(whole, out), random.Random(job), [], True
    while len(codes) < MOMENTS:
        running, kind = started(*command, "--json", cwd=folder), KINDS[len(codes) % len(KINDS)]
        began = time.monotonic()
        out, said = ended(running, kind, draw.uniform(0.05, 0.9) * took)
        waited_for(lambda running=running: not left_of(running.pid), seconds=60)
        if running.returncode == 0:  # it was done before the moment came: begin again, and look earlier
            assert answer(folder, out) == reference
            took = 0.9 * (time.monotonic() - began) if new else took
            folder, new = laid_out(tmp_path / f"from{began:.0f}"), True
        else:
            new = False
            codes.append(running.returncode)
            assert running.returncode in ENDS[kind], said
            assert kind == signal.SIGKILL or "interrupted" in said or running.returncode < 0
    last = started(*command, "--json", cwd=folder)
    out, said = last.communicate(timeout=LONGEST)
    assert last.returncode == 0, said
    assert answer(folder, out) == reference
    print(f"{job}: {took:.0f} s undisturbed, exit codes {codes}")


@pytest.mark.slow
def test_a_sweep_in_two_processes_of_which_one_is_killed_at_ten_moments(tmp_path):
    command = JOBS["sweep"][0]

    def in_two():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{probe.getsockname()[1]}"
        both = ["--coordinator", where, "--processes", "2", "--json", "--process"]
        return [started(*command, *both, i, cwd=tmp_path) for i in range(2)]

    began, pair = time.monotonic(), in_two()
    out = [one.communicate(timeout=LONGEST)[0] for one in pair]
    took = time.monotonic() - began
    assert [one.returncode for one in pair] == [0, 0]
    reference, draw, codes = printed(tmp_path, out[0]), random.Random("two"), []
    for state in tmp_path.glob("state*"):
        state.unlink()
    while len(codes) < MOMENTS:
        pair, kind, victim = in_two(), KINDS[len(codes) % len(KINDS)], draw.randrange(2)
        ended(pair[victim], kind, draw.uniform(0.05, 0.9) * took)
        out, said = pair[1 - victim].communicate(timeout=LONGEST)
        if pair[victim].returncode == 0:  # done before the moment came: begin again
            took *= 0.9
            for state in tmp_path.glob("state*"):
                state.unlink()
            continue
        codes.append([pair[victim].returncode, pair[1 - victim].returncode])
        assert "Traceback" not in said, said
        assert pair[victim].returncode in {*ENDS[kind], 1}, said
        assert pair[1 - victim].returncode in (0, 1), said
        assert not [left for one in pair for left in left_of(one.pid)]
    pair = in_two()
    out = [one.communicate(timeout=LONGEST)[0] for one in pair]
    assert [one.returncode for one in pair] == [0, 0]
    assert printed(tmp_path, out[0]) == reference
    print(f"two processes: {took:.0f} s undisturbed, exit codes {codes}")


@pytest.mark.slow
def test_measuring_a_machine_killed_at_ten_moments_leaves_no_half_a_file(tmp_path):
    draw, codes = random.Random("measure"), []
    for moment in range(MOMENTS):
        running = started("calibrate", "--measure", "--seconds", "2", "--out", "hw.json", cwd=tmp_path)
        kind = KINDS[moment % len(KINDS)]
        _, said = ended(running, kind, draw.uniform(0.2, 20.0))
        codes.append(running.returncode)
        assert running.returncode in {0, *ENDS[kind]}, said
        assert not left_of(running.pid)
        held = sorted(path.name for path in tmp_path.iterdir())
        assert held in ([], ["hw.json"])
        if held:
            ss.load_hardware(tmp_path / "hw.json")
    print(f"measuring: exit codes {codes}")


@pytest.fixture
def interruptible():
    """Ctrl-C reaches Python, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(at):
    """Return a progress function that interrupts its own process the `at`-th time."""
    left = [at]

    def progress(_):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    return progress


@pytest.mark.parametrize("job", ["train", "bootstrap"])
def test_a_job_interrupted_goes_on_to_the_same_answer(job, tmp_path, monkeypatch, interruptible):
    """The quick form; a sweep's is in tests/sweeps/test_checkpoint.py."""
    if job == "train":
        (tmp_path / "text.txt").write_text("\n\n".join(f"document {i} says {i * i}" for i in range(400)))
        corpus = ss.load_corpus(tmp_path / "text.txt")
        shape = ss.Shape(n_layer=1, d_model=16, n_head=2, n_kv_head=1, head_dim=8, d_ff=32, vocab_size=256)
        config = ss.TrainConfig(shape=shape, context_length=16, n_tokens=1280, batch_tokens=64)

        def run(kept, progress=lambda _: None):
            saved = Checkpoints.save
            with monkeypatch.context() as patched:
                patched.setattr(Checkpoints, "save", lambda *a, **k: (saved(*a, **k), progress(a)))
                return ss.train(config, corpus, kept, checkpoint_seconds=0.0).losses
    else:
        monkeypatch.setattr(import_module("scalesim.fitting.bootstrap"), "CHUNK", 8)
        fit = ss.fit("power", ss.load_runs("paper"), fixed={"E": 1.97}, starts=8)

        def run(kept, progress=None):
            drawn = ss.bootstrap(fit, 40, starts=4, path=kept and kept / "kept.npz", progress=progress)
            if len(drawn) < 40:
                raise KeyboardInterrupt
            return drawn.objective

    whole, kept = run(None), tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(kept, interrupt(3))
    np.testing.assert_array_equal(run(kept), whole)
