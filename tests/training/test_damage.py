"""A damaged training folder: the run ends with the same losses, bit for bit, or a sentence says why not."""

import gc
import json
import random
import shutil

import numpy as np
import pytest

from scalesim.errors import InvalidInput, Unreachable
from scalesim.shape import Shape
from scalesim.training import TrainConfig, from_documents, train
from scalesim.training.checkpoint import VERSION

SHAPE = Shape(n_layer=1, d_model=16, n_head=2, n_kv_head=1, head_dim=8, d_ff=32, vocab_size=256)
RUN = TrainConfig(shape=SHAPE, context_length=16, n_tokens=6400, batch_tokens=64, validation_tokens=256)
TEXT = from_documents([bytes(f"document {i} says {i * i}", "ascii") for i in range(400)], 0.1)


class Stop(Exception):
    """Training is stopped half way."""


def half(folder):
    def stop(progress):
        if progress.step > 60:
            raise Stop

    with pytest.raises(Stop):
        train(RUN, TEXT, folder, checkpoint_seconds=0.0, progress=stop)


def flipped(path, draw):
    raw = bytearray(path.read_bytes())
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)


def cut(path, draw):
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def removed(path, draw):
    path.unlink()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    half(folder)
    return folder, train(RUN, TEXT).losses


def outcome(begun, folder, damage, draw, newest):
    source, losses = begun
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    steps = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    root = folder / "checkpoints" / str(steps[-1]) if newest else folder
    damage(draw.choice([p for p in sorted(root.rglob("*")) if p.is_file() and p.stat().st_size]), draw)
    try:
        found = train(RUN, TEXT, folder)
    except (InvalidInput, Unreachable):
        return "refused"
    finally:
        gc.collect()  # reads that were begun and left would fail here, not in another test
    return "same" if np.array_equal(found.losses, losses) else "different"


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flipped, cut, removed])
def test_a_damaged_folder(begun, tmp_path, damage):
    draw = random.Random(damage.__name__)
    assert {outcome(begun, tmp_path / "x", damage, draw, True) for _ in range(2)} <= {"same", "refused"}


@pytest.mark.slow
def test_a_hundred_and_twenty_flipped_bits(begun, tmp_path, capsys):
    draw = random.Random(2)
    found = [outcome(begun, tmp_path / "x", flipped, draw, i % 2 == 0) for i in range(120)]
    with capsys.disabled():
        print({how: found.count(how) for how in sorted(set(found))})
    assert set(found) <= {"same", "refused"}


def test_values_that_are_not_those_written_are_passed_over_where_the_files_are_not_known(
    begun, tmp_path, caplog
):
    """As of a run that was killed between the last byte of a checkpoint and the note of its files."""
    shutil.copytree(begun[0], tmp_path / "x")
    notes = tmp_path / "x" / "checkpoints" / "run.json"
    held = json.loads(notes.read_text())
    newest = max(held.pop("file_digests"), key=int)
    held["digests"][newest] = "0" * 16
    notes.write_text(json.dumps(held))
    assert np.array_equal(train(RUN, TEXT, tmp_path / "x").losses, begun[1])
    assert "its values are not those that were written" in caplog.text


def test_another_run_s_checkpoints_are_refused_without_their_description(begun, tmp_path):
    shutil.copytree(begun[0], tmp_path / "x")
    (tmp_path / "x" / "checkpoints" / "run.json").unlink()
    with pytest.raises(InvalidInput, match="holds checkpoints, but not of which run"):
        train(RUN, TEXT, tmp_path / "x")


@pytest.mark.parametrize("version", [None, VERSION + 1])
def test_older_folders_go_on_and_later_ones_are_refused(begun, tmp_path, version):
    shutil.copytree(begun[0], tmp_path / "x")
    notes = tmp_path / "x" / "checkpoints" / "run.json"
    held = json.loads(notes.read_text())
    assert held["version"] == VERSION
    if version is None:  # as they were before versions and digests were kept
        old = {k: v for k, v in held.items() if k not in ("version", "digests", "file_digests")}
        notes.write_text(json.dumps(old))
        assert np.array_equal(train(RUN, TEXT, tmp_path / "x").losses, begun[1])
    else:
        notes.write_text(json.dumps({**held, "version": version}))
        with pytest.raises(InvalidInput, match="reads up to"):
            train(RUN, TEXT, tmp_path / "x")
