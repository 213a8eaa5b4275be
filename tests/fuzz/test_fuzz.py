"""Damaged files and command lines: a sentence or an answer of finite numbers, never a traceback or a hang."""

from __future__ import annotations

import json
import random
import signal
import time
import traceback
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

import scalesim as ss
from scalesim.cli import main
from tests.fuzz.mutate import of_words
from tests.fuzz.targets import TIMINGS, laid_out, targets

SEED = 20
LONGEST = 300  # seconds for one input, on a busy machine
TARGETS = targets()


class Hang(Exception):
    """An input took too long."""


@contextmanager
def limited():
    """Raise `Hang` where an input takes longer than any may."""

    def end(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(target, content, folder):
    """Return how a reading ended: "read", "refused", or what must not be."""
    path = laid_out(target, folder, content)
    try:
        with limited():
            values = target.read(path)
    except (ss.InvalidInput, ss.Unreachable) as error:
        said = str(error)
        return (
            "refused"
            if said and "\n" not in said.strip() and "Traceback" not in said
            else f"not a sentence: {said!r}"
        )
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} at {at.filename.split('scalesim/')[-1]}:{at.lineno}"[:300]
    if all(np.isfinite(np.asarray(v, float)).all() for v in values if v is not None):
        return "read"
    return "numbers that are not finite"


def fuzz(target, count, folder):
    """Return how each of `count` damaged files was taken."""
    draw = random.Random(f"{SEED} {target.name}")
    tally = Counter()
    for i in range(count):
        content = draw.choice(target.damages)(target.content, draw)
        how = judged(target, content, folder)
        if how not in ("read", "refused"):
            (folder / f"bad{i}").write_bytes(content)
        tally[how] += 1
    return tally


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_an_undamaged_file_is_read(target, tmp_path):
    assert judged(target, target.content, tmp_path) == "read"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_damaged_files_are_read_or_refused(target, tmp_path):
    tally = fuzz(target, 25, tmp_path)
    assert set(tally) <= {"read", "refused"}, tally


@pytest.mark.slow
def test_twenty_thousand_inputs(tmp_path_factory, capsys):
    each = -(-20_000 // len(TARGETS))
    total, bad, began = Counter(), [], time.monotonic()
    for target in TARGETS:
        tally = fuzz(target, each, tmp_path_factory.mktemp("fuzz"))
        total += tally
        bad += [f"{target.name}: {how} ({n})" for how, n in tally.items() if how not in ("read", "refused")]
        with capsys.disabled():
            print(f"{target.name}: {dict(tally)}", flush=True)
    with capsys.disabled():
        took = time.monotonic() - began
        print(f"{total.total()} inputs: {total['read']} read, {total['refused']} refused, in {took:.0f} s")
    assert total.total() >= 20_000
    assert not bad, "\n".join(bad)


COMMANDS = (
    ["predict", "default", "--n-params", "1B", "--set", "n_head=8", "n_kv_head=1", "--json"],
    ["cost", "--model", "gpt2", "--context", "1K", "--json"],
    ["cost", "--shape", "16x2048x8x1", "--hardware", "a100", "--context", "8K", "--json"],
    ["compare", "16x2048x8x1", "gpt2", "--context", "1K,2K", "--json"],
    ["calibrate", "timings.csv", "--hardware", "h100", "--json"],
    ["design", "--context", "8K", "--target-loss", "2.7", "--max-head", "8", "--tile", "64", "--json"],
    ["sweep", "--d-model", "512:1024:256", "--d-ff", "1024:4096:512", "--n-head", "4,8", "--json"],
    ["fit", "runs.csv", "--column", "n_tokens=n_tokens", "--starts", "4", "--select", "n_params=1", "--json"],
    ["train", "grid.toml", "--workers", "1", "--json"],
    ["train", "--shape", "1x16x2x1", "--tokens", "none", "--context", "16", "--corpus", "c.txt", "--json"],
)  # fmt: skip


def called(words, capsys):
    """Return what came of a command: its exit code, or what must not be."""
    try:
        with limited():
            code = main(list(words))
    except SystemExit as error:  # tyro's own refusals
        code = error.code if isinstance(error.code, int) else 2
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{words}: {type(error).__name__}: {error} at {at.filename}:{at.lineno}"
    printed = capsys.readouterr()
    if code == 0 and "--json" in words and not {"--help", "-h"} & set(words):
        value = json.loads(printed.out, parse_constant=lambda word: pytest.fail(f"{words} prints {word}"))
        assert isinstance(value, dict)
    if code not in (0, 1, 2):
        return f"{words}: exit code {code}"
    if code and not printed.err.strip() and not printed.out.strip():
        return f"{words}: exit code {code} without a word"
    return code


def fuzz_commands(count, folder, capsys, monkeypatch):
    """Return the exit codes of damaged command lines."""
    monkeypatch.chdir(folder)
    (folder / "timings.csv").write_bytes(TIMINGS)
    for name in ("table, commas", "grid", "corpus, text"):
        target = next(t for t in TARGETS if t.name == name)
        (folder / target.file).write_bytes(target.content.replace(b'"stdlib"', b'"absent"'))
    draw, tally = random.Random(SEED), Counter()
    for i in range(count):
        tally[called(of_words(COMMANDS[i % len(COMMANDS)], draw), capsys)] += 1
    return tally


def test_damaged_command_lines_end_in_a_sentence_or_an_answer(tmp_path, capsys, monkeypatch):
    tally = fuzz_commands(30, tmp_path, capsys, monkeypatch)
    assert set(tally) <= {0, 1, 2}, tally


@pytest.mark.slow
def test_many_damaged_command_lines(tmp_path, capsys, monkeypatch):
    tally = fuzz_commands(600, tmp_path, capsys, monkeypatch)
    with capsys.disabled():
        print(f"600 command lines: exit codes {dict(tally)}")
    assert set(tally) <= {0, 1, 2}, tally
