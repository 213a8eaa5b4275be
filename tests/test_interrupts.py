"""Ctrl-C and SIGTERM: what there is to keep is kept, the exit code is 130, and nobody is left behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalesim import interrupts

COMMAND = [sys.executable, "-c", "import sys; from scalesim.cli import main; sys.exit(main())"]


def started(*args, **options):
    """Start a command in a session of its own, whose processes can be told from others."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        **options,
    )


def left_of(session):
    """Return the processes of a session that are still there."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, _, of = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:
                continue
            if int(of) == session and state != "Z":
                found.append(folder.name)
    return found


def waited_for(condition, seconds=120.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.05)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"document {i} says {i * i}, and {i * i * i} too" for i in range(4000)))
    return path


def tiny(corpus, folder, tokens):
    sizes = ["--shape", "1x16x2x1", "--head-dim", "8", "--context", "16", "--batch-tokens", "64"]
    return ["train", *sizes, "--tokens", tokens, "--corpus", corpus, "--folder", folder, "--json"]


def test_a_flag_is_raised_between_two_steps():
    with interrupts.deferred() as stopping:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert stopping()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with interrupts.raised(), pytest.raises(interrupts.Interrupted):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_training_interrupted_keeps_a_checkpoint_and_ends_the_same(tmp_path, corpus, kind):
    tokens = 6_400_000
    running = started(*tiny(corpus, tmp_path / "out", tokens))
    waited_for(lambda: (tmp_path / "out" / "checkpoints" / "run.json").exists())
    time.sleep(8)
    running.send_signal(kind)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert "The checkpoint after step" in said
    assert not left_of(running.pid)


@pytest.mark.slow
def test_ten_random_kills_and_interrupts_change_nothing(tmp_path, corpus):
    tokens, draw = 1_280_000, random.Random(3)
    plain, _ = started(*tiny(corpus, tmp_path / "plain", tokens)).communicate(timeout=300)
    ended = []
    for _ in range(10):
        running = started(*tiny(corpus, tmp_path / "out", tokens))
        kind = draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
        time.sleep(draw.uniform(3.0, 9.0))
        running.send_signal(kind)
        _, said = running.communicate(timeout=120)
        ended.append(running.returncode)
        assert "Traceback" not in said
        assert not left_of(running.pid)
        if running.returncode == 0:
            break
    again, _ = started(*tiny(corpus, tmp_path / "out", tokens)).communicate(timeout=300)
    assert set(ended) <= {0, 130, -signal.SIGKILL, -signal.SIGTERM}
    assert json.loads(again)["loss"] == json.loads(plain)["loss"]


GRID = """
corpus = "{corpus}"
folder = "{folder}"
[defaults]
head_dim = 8
batch_tokens = 64
n_layer = 1
d_model = 16
d_ff = 32
heads = [[2, 1]]
context_length = 16
[[runs]]
n_tokens = 64
[[runs]]
n_tokens = 64000000
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_grid_that_is_ended_leaves_no_worker(tmp_path, corpus, kind):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(corpus=corpus, folder=tmp_path / "out"))
    running = started("train", path, "--workers", "2", "--json")
    waited_for(lambda: list((tmp_path / "out" / "finished").glob("*.json")), 240)
    waited_for(lambda: list((tmp_path / "out" / "unfinished").glob("*/checkpoints/run.json")), 240)
    time.sleep(2)  # one worker idle, one at its steps
    running.send_signal(kind)
    _, said = running.communicate(timeout=60)
    assert running.returncode == (-kind if kind == signal.SIGKILL else 130)
    assert "Traceback" not in said
    if kind != signal.SIGKILL:
        assert "1 of 2 runs are finished" in said
    waited_for(lambda: not left_of(running.pid), 20)


@pytest.mark.slow
def test_two_grids_in_one_folder(tmp_path, corpus):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(corpus=corpus, folder=tmp_path / "out"))
    first = started("train", path, "--workers", "1", "--json")
    waited_for(lambda: list((tmp_path / "out" / "finished").glob("*.json")), 240)
    second = started("train", path, "--workers", "1", "--json")
    _, said = second.communicate(timeout=120)
    assert second.returncode == 1
    assert "is in use by another process" in said
    first.terminate()
    first.communicate(timeout=60)


@pytest.mark.slow
def test_a_bootstrap_interrupted_says_what_is_kept(tmp_path):
    kept = tmp_path / "kept.npz"
    options = ["--bootstrap", "200000", "--resume", kept, "--starts", "8", "--json"]
    running = started("fit", "paper", "--law", "power", "--fix", "E=1.97", *options)
    waited_for(kept.exists, 240)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "of 200000 resamples are kept in" in said


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0, 5.0, 8.0])
def test_one_interrupt_ends_a_fit_whatever_it_is_at(seconds):
    running = started("fit", "own", "--law", "separablehead", "--bootstrap", "100000", "--json")
    time.sleep(seconds)
    running.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = running.communicate(timeout=60)
    assert running.returncode in (130, -signal.SIGINT)  # before the command began, Python's own
    assert "Traceback" not in said or running.returncode == -signal.SIGINT
    assert time.monotonic() - began < 60
