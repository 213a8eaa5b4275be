"""Ctrl-C, SIGTERM, SIGHUP: what there is to keep is kept, exit code 130, and nobody is left behind."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from scalesim import interrupts
from scalesim.cli import COMMANDS
from tests.processes import LONGEST, left_of, started, waited_for

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"document {i} says {i * i}, and {i * i * i} too" for i in range(4000)))
    return path


def tiny(corpus, folder, tokens):
    sizes = ["--shape", "1x16x2x1", "--head-dim", "8", "--context", "16", "--batch-tokens", "64"]
    return ["train", *sizes, "--tokens", tokens, "--corpus", corpus, "--folder", folder, "--json"]


@pytest.fixture(autouse=True)
def hangups_are_heard():
    """A terminal's end reaches what a test starts, also where the tests run under nohup, which ignores it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def heeded():
    """Ctrl-C reaches Python, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_is_raised_between_two_steps(kind, heeded):
    before = signal.getsignal(kind)
    with interrupts.deferred() as stopping:
        assert not stopping()
        signal.raise_signal(kind)
        assert stopping()
        if kind != signal.SIGINT:  # a group's end and its parent's: what is being kept is kept
            signal.raise_signal(kind)
    assert signal.getsignal(kind) == before
    with interrupts.raised(), pytest.raises(interrupts.Interrupted):
        signal.raise_signal(kind)


def test_what_is_ignored_stays_ignored():
    """As under nohup, and Ctrl-C in the workers of a grid, which the grid ends itself."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.deferred() as stopping:
            signal.raise_signal(signal.SIGHUP)
            assert not stopping()
    finally:
        signal.signal(signal.SIGHUP, before)


WITHIN = """
import os, signal, threading, time
from scalesim.interrupts import end_at_once, end_process, saying
def chatter():
    while True:
        os.write({stream}, b"E0000 socket closed\\n")
threading.Thread(target=chatter, daemon=True).start()
time.sleep(0.05)
with end_at_once(), saying("Kept in x."):
    {end}
    time.sleep(60)
"""


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("end_process(1, 'scalesim: the other has ended.')", 1, "scalesim: the other has ended."),
        *((f"os.kill(os.getpid(), {kind:d})", 130, "scalesim: interrupted. Kept in x.") for kind in KINDS),
    ],
)
def test_nothing_follows_the_sentence_that_ends_a_process(stream, end, code, said):
    program = [sys.executable, "-c", WITHIN.format(stream=stream, end=end)]
    ended = subprocess.run(
        program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
    )
    assert ended.returncode == code
    assert ended.stdout.splitlines()[-1] == said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_interrupted_keeps_a_checkpoint(tmp_path, corpus, kind):
    running = started(*tiny(corpus, tmp_path / "out", 6_400_000))
    for line in running.stderr:  # a line of progress: steps are being made
        if "%" in line:
            break
    running.send_signal(kind)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert "The checkpoint after step" in said
    assert not left_of(running.pid)


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
n_tokens = 6400000
"""


@pytest.mark.slow
@pytest.mark.parametrize("send", [os.kill, os.killpg])  # a terminal's Ctrl-C goes to the workers too
@pytest.mark.parametrize("kind", [*KINDS, signal.SIGKILL])
def test_a_grid_that_is_ended_leaves_no_worker(tmp_path, corpus, kind, send):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(corpus=corpus, folder=tmp_path / "out"))
    running = started("train", path, "--workers", "2", "--json")
    # One worker idle, one at its steps: the short run is a hundred-thousandth of the whole.
    waited_for(lambda: list((tmp_path / "out" / "finished").glob("*.json")), running)
    assert any(re.search(r"1 of 2 runs, [1-9]\d*%", line) for line in running.stderr)
    send(running.pid, kind)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode == (-kind if kind == signal.SIGKILL else 130)
    assert "Traceback" not in said
    if kind != signal.SIGKILL:
        assert list((tmp_path / "out" / "unfinished").glob("*/checkpoints/[0-9]*")), "nothing was kept"
        assert "1 of 2 runs are finished" in said.splitlines()[-1]
    waited_for(lambda: not left_of(running.pid), seconds=60)


@pytest.mark.slow
def test_two_grids_in_one_folder(tmp_path, corpus):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(corpus=corpus, folder=tmp_path / "out"))
    first = started("train", path, "--workers", "1", "--json")
    waited_for(lambda: list((tmp_path / "out" / "finished").glob("*.json")), first)
    second = started("train", path, "--workers", "1", "--json")
    _, said = second.communicate(timeout=LONGEST)
    assert second.returncode == 1
    assert "is in use by another process" in said
    first.terminate()
    first.communicate(timeout=LONGEST)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_bootstrap_interrupted_says_what_is_kept(tmp_path, kind):
    kept = tmp_path / "kept.npz"
    options = ["--bootstrap", "200000", "--resume", kept, "--starts", "8", "--json"]
    running = started("fit", "paper", "--law", "power", "--fix", "E=1.97", *options)
    waited_for(kept.exists, running)
    running.send_signal(kind)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode == 130
    assert "of 200000 resamples are kept in" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.6, 0.9])
def test_one_interrupt_ends_a_fit_whatever_it_is_at(part, kind, whole_fit):
    running = started(*FIT)
    time.sleep(part * whole_fit)
    running.send_signal(kind)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode in (130, 0, 1, -kind)  # before the command began, Python's own
    assert "Traceback" not in said or running.returncode == -signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_when_it_is_asked(command, kind, tmp_path):
    """Each in its midst, by a program that takes for ever in the command's own place."""
    program = (
        "import sys, time, importlib, scalesim.cli as cli\n"
        f"module = importlib.import_module('scalesim.cli.{command}')\n"
        "module.run = lambda args: (print('begun', flush=True), time.sleep(600))\n"
        f"sys.argv = ['scalesim', '{command}']; sys.exit(cli.main())"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout.readline() == "begun\n"
    running.send_signal(kind)
    _, said = running.communicate(timeout=LONGEST)
    assert (running.returncode, said) == (130, "scalesim: interrupted.\n")


FIT = ("fit", "own", "--law", "separablehead", "--bootstrap", "2000", "--json")


@pytest.fixture(scope="module")
def whole_fit():
    """How long a fit takes on the machine as it is: its moments are parts of that."""
    began, running = time.monotonic(), started(*FIT)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode in (0, 1), said  # 1: a coefficient is not identified, which the status says
    return time.monotonic() - began
