"""Training: it learns, resumes to the bit, stops at what is not finite, and keeps what was good."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from scalesim.errors import InvalidInput, Unreachable
from scalesim.training import Recipe, train, train_pack
from scalesim.training.checkpoint import Checkpoints
from tests.training.small import SHAPE, TEXT, config

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def whole():
    with jax.enable_x64(False):
        return train(config(), TEXT)


def test_it_learns(whole):
    assert whole.status == "finished"
    assert whole.losses[0] == pytest.approx(np.log(256), abs=0.2)
    assert whole.loss < 3.5
    assert whole.loss_by_position.shape == (32,)
    assert whole.loss == pytest.approx(float(whole.loss_by_position.mean()))
    assert whole.loss_by_position[0] > whole.loss_by_position[-1]


def test_the_same_seed_is_the_same_run_and_another_is_not(whole):
    again = train(config(), TEXT)
    np.testing.assert_array_equal(again.losses, whole.losses)
    other = train(config(seed=1), TEXT)
    assert (other.losses != whole.losses).all()


class Stop(Exception):
    pass


def stop_at(step):
    def tell(progress):
        if progress.step >= step:
            raise Stop

    return tell


def interrupted(folder, monkeypatch, step, **changes):
    """Train with a checkpoint each step, and break off at a step."""
    import scalesim.training.loop as loop

    ticks = iter(range(10**6))  # a clock on which each step takes a second: each is reported and kept
    with monkeypatch.context() as m:
        m.setattr(loop.time, "monotonic", lambda: float(next(ticks)))
        with pytest.raises(Stop):
            train(config(**changes), TEXT, folder, checkpoint_seconds=0.0, progress=stop_at(step))


def test_a_run_that_was_broken_off_ends_the_same_to_the_bit(whole, tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, 17)
    resumed_from = []
    resumed = train(config(), TEXT, tmp_path, progress=lambda p: resumed_from.append(p.step))
    assert 15 <= resumed_from[0] <= 20
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    np.testing.assert_array_equal(resumed.loss_by_position, whole.loss_by_position)
    for name, value in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], value)


def test_a_finished_run_is_not_trained_again(whole, tmp_path):
    train(config(), TEXT, tmp_path)
    steps = []
    again = train(config(), TEXT, tmp_path, progress=lambda p: steps.append(p.step))
    assert steps == []
    np.testing.assert_array_equal(again.losses, whole.losses)


@pytest.mark.slow
def test_a_checkpoint_cut_short_gives_way_to_the_one_before(whole, tmp_path, monkeypatch, caplog):
    interrupted(tmp_path, monkeypatch, 20)
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert len(steps) == 2
    for file in (tmp_path / "checkpoints" / str(steps[-1])).rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            os.truncate(file, file.stat().st_size // 2)
    resumed = train(config(), TEXT, tmp_path)
    assert f"checkpoint of step {steps[-1]} cannot be read" in caplog.text
    np.testing.assert_array_equal(resumed.losses, whole.losses)


def test_a_folder_of_another_run_is_refused_by_what_differs(tmp_path):
    train(config(n_tokens=512), TEXT, tmp_path)
    other = config(n_tokens=512, shape=replace(SHAPE, n_kv_head=4))
    with pytest.raises(InvalidInput, match=r"its runs.shape.blocks.mixer.n_kv_head is 2, this one's 4"):
        train(other, TEXT, tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_keeps_the_last_good(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, 12)
    import scalesim.training.loop as loop

    good = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    real = loop.compiled_step(config().shape, Recipe(), config().options, packed=False)

    def spoilt(state, batch, rate, n_steps):
        state, loss = real(state, batch, rate, n_steps)
        return state, loss + np.float32(np.nan if int(state.step) == 31 else 0.0)

    monkeypatch.setattr(loop, "compiled_step", lambda *a, **k: spoilt)
    result = train(config(), TEXT, tmp_path)
    assert result.status == "diverged"
    assert "step 30" in result.message
    assert len(result.losses) == 31
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == good


def test_a_full_disk_is_a_sentence_and_the_last_good_state_stays(tmp_path, monkeypatch):
    interrupted(tmp_path, monkeypatch, 12)
    good = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    from orbax.checkpoint import v1

    monkeypatch.setattr(v1.training.Checkpointer, "save_async", full)
    with pytest.raises(Unreachable, match="the disk is full; what was kept before stays"):
        train(config(), TEXT, tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == good


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unreachable, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "run", {})


def test_a_pack_is_its_runs_one_by_one(whole):
    configs = [config(), config(seed=3), config(learning_rate=0.02)]
    for packed, one in zip(train_pack(configs, TEXT), configs, strict=True):
        alone = whole if one == config() else train(one, TEXT)
        np.testing.assert_allclose(packed.losses, alone.losses, rtol=2e-4)
        assert packed.loss == pytest.approx(alone.loss, rel=1e-3)


def test_a_batch_in_parts_is_the_batch(whole):
    parts = train(config(recipe=Recipe(accumulate=4)), TEXT)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=2e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_tokens": 100}, "batch_tokens must be a multiple of context_length"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"n_tokens": 0}, "n_tokens"),
        ({"context_length": 1.5}, "context_length"),
        ({"recipe": Recipe(accumulate=3)}, "accumulate must divide"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changes, says):
    with pytest.raises(InvalidInput, match=says):
        config(**changes)


def test_a_vocabulary_smaller_than_the_corpus_is_refused():
    with pytest.raises(InvalidInput, match="vocab_size must be at least the corpus's 256"):
        train(config(shape=replace(SHAPE, vocab_size=100)), TEXT)


def test_runs_that_differ_in_more_are_no_pack():
    with pytest.raises(InvalidInput, match="seed and learning_rate alone"):
        train_pack([config(), config(context_length=16)], TEXT)
    with pytest.raises(InvalidInput, match="at least one run"):
        train_pack([], TEXT)


CHILD = """
import sys
from scalesim.training import train
from tests.training.small import TEXT, config
run, said = config(n_tokens=8000 * 256), []
def tell(progress):
    if not said:
        said.append(print("training from step", progress.step, flush=True))
result = train(run, TEXT, sys.argv[1], checkpoint_seconds=0.05, progress=tell)
print("RESULT", result.losses.tobytes().hex()[-4000:], result.losses.sum(), result.loss, flush=True)
"""


def child(folder):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CHILD, str(folder)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)}, cwd=root, text=True
    )


@pytest.mark.slow
def test_killed_at_random_ten_times_it_ends_the_same(tmp_path):
    expected = child(tmp_path / "undisturbed").communicate()[0].split("RESULT")[1]
    generator, begun = random.Random(0), []
    for _ in range(10):
        process = child(tmp_path / "killed")
        begun.append(int(process.stdout.readline().split()[-1]))
        time.sleep(generator.uniform(0.0, 0.8))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = child(tmp_path / "killed")
    said, result = last.communicate()[0].split("RESULT")
    assert int(said.split()[-1]) > begun[0]  # it went on from where it was
    assert result == expected
