import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

import scalesim as ss
from scalesim.laws import HeadLaw
from scalesim.sweeps import Product, Stream, engine, product
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.checkpoint import read_checkpoint
from scalesim.sweeps.keep import FRONTIERS

LAW = HeadLaw(E=1.97, A=0.8, b=0.196, C=0.1, k=2.0, F=0.0165, m=10.0, g=0.667)
JOB = ss.Workload(context_length=131_072)
SPACE = Product(
    n_layer=range(8, 33),
    d_model=range(896, 4353, 64),
    d_ff=range(2304, 12033, 128),
    n_head=range(1, 21),
    n_kv_head=[1, 2, 4, 8],
)


class Stopped(Exception):
    """What a test raises in the middle of a sweep."""


def same(one, other):
    """Return whether two answers are the same to the last bit."""
    return (
        one.kept.top.tobytes() == other.kept.top.tobytes()
        and all(one.kept.frontier(m).tobytes() == other.kept.frontier(m).tobytes() for m in FRONTIERS)
        and one.designs == other.designs
    )


def interrupted(error, after, path, designs=SPACE):
    """Sweep until some progress, and fail there; every round is written."""
    rounds = []

    def progress(now):
        rounds.append(now.designs)
        if len(rounds) == after:
            raise error

    with pytest.raises(error):
        ss.sweep(LAW, designs, JOB, 2.6, checkpoint=path, every=0.0, progress=progress)
    return rounds[-1]


@pytest.fixture
def many_blocks(monkeypatch):
    monkeypatch.setattr(product, "BLOCK_DESIGNS", 4096)
    monkeypatch.setattr(engine, "SAMPLE", 16)


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt])
def test_an_interrupted_sweep_goes_on_and_ends_alike(error, tmp_path, many_blocks):
    path, whole = tmp_path / "folder" / "state", ss.sweep(LAW, SPACE, JOB, 2.6)
    done = interrupted(error, 2, path)
    assert 0 < done < SPACE.count
    seen = []
    found = ss.sweep(LAW, SPACE, JOB, 2.6, checkpoint=path, progress=lambda now: seen.append(now.designs))
    assert seen[0] > done, "it went on rather than starting over"
    assert same(found, whole)
    again = ss.sweep(LAW, SPACE, JOB, 2.6, checkpoint=path, progress=lambda now: pytest.fail("it was done"))
    assert same(again, whole)
    assert again.seconds == found.seconds
    assert [file.name for file in path.parent.iterdir()] == ["state"], "nothing is left lying beside it"


def test_a_stream_goes_on_where_it_was(tmp_path):
    sizes = SPACE.sizes(np.arange(40_000))

    def designs():
        yield from ({n: part[:, i] for i, n in enumerate(SIZES)} for part in np.array_split(sizes, 9))

    stream = Stream(designs, block_designs=2048)
    # A round is at most four times the last: the second ends within the first 5 of 20 blocks on any machine.
    done = interrupted(Stopped, 2, tmp_path / "state", stream)
    found = ss.sweep(LAW, Stream(designs, block_designs=2048), JOB, 2.6, checkpoint=tmp_path / "state")
    assert done < found.designs == 40_000
    assert same(found, ss.sweep(LAW, Stream(designs, block_designs=2048), JOB, 2.6))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_checkpoint_is_refused(damage, tmp_path, many_blocks):
    path = tmp_path / "state"
    interrupted(Stopped, 2, path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-100] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(b"PAR1" * 10)
    path.write_bytes(content)
    with pytest.raises(ss.InvalidInput, match=r"damaged .* Delete it, or name another"):
        ss.sweep(LAW, SPACE, JOB, 2.6, checkpoint=path)
    assert path.read_bytes() == content, "what was there stays for the user to look at"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"target_loss": 2.61}, "target_loss"),
        ({"top": 11}, "top"),
        ({"span": 0.2}, "span and resolution"),
        ({"objective": ss.FIGURE_1}, "objective"),
        ({"workload": ss.Workload(context_length=8192)}, "workload"),
        ({"law": HeadLaw()}, "law"),
        ({"designs": Product(**{n: getattr(SPACE, n) for n in SIZES}, ffn_slack=1.2)}, "designs"),
    ],
)
def test_a_checkpoint_of_another_question_is_refused(change, part, tmp_path, many_blocks):
    interrupted(Stopped, 2, tmp_path / "state")
    asked = {"law": LAW, "designs": SPACE, "workload": JOB, "target_loss": 2.6, **change}
    with pytest.raises(ss.InvalidInput, match=f"belongs to another sweep: it differs in {part}"):
        ss.sweep(**asked, checkpoint=tmp_path / "state")


def test_parts_are_written_beside_a_checkpoint_that_has_passed_them_by(tmp_path, many_blocks):
    interrupted(Stopped, 2, tmp_path / "state")
    asked = {"law": LAW, "designs": SPACE, "workload": JOB, "checkpoint": tmp_path / "state"}
    found = ss.sweep(**asked, target_loss=2.6, save_all=tmp_path / "half")
    ss.sweep(**asked, target_loss=2.6, save_all=tmp_path / "ended")
    for folder in ("half", "ended"):
        table = pl.read_parquet(tmp_path / folder / "*.parquet")
        assert table["index"].n_unique() == len(table) == found.designs == SPACE.count
    with pytest.raises(ss.InvalidInput, match="of another sweep: another target_loss"):
        ss.sweep(LAW, SPACE, JOB, 2.7, save_all=tmp_path / "half")


def test_a_checkpoint_of_a_later_version_says_so(tmp_path):
    (tmp_path / "state").write_bytes(b"scalesim sweep 2\nwhat it may hold")
    with pytest.raises(ss.InvalidInput, match="is of version 2; this scalesim reads up to 1"):
        read_checkpoint(tmp_path / "state", {})


def test_a_checkpoint_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ss.InvalidInput, match="is a folder"):
        read_checkpoint(tmp_path, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ss.InvalidInput, match=r"cannot be (read|written)"):
        ss.sweep(LAW, SPACE, JOB, 2.6, checkpoint=tmp_path / "file" / "state")


def powers(exponent):
    return lambda shape, workload: shape.n_layer**exponent * shape.d_model


def one_batch(width):
    sizes = {"n_layer": 16, "n_head": 8, "n_kv_head": 1, "d_ff": 8192}
    return lambda: iter(
        [{**{name: np.array([size]) for name, size in sizes.items()}, "d_model": np.array([width])}]
    )


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        ({"objective": powers(1)}, {"objective": powers(2)}, "objective"),
        ({"designs": Stream(one_batch(2048))}, {"designs": Stream(one_batch(4096))}, "designs"),
        ({"designs": Stream(one_batch(2048)())}, {"designs": Stream(one_batch(4096)())}, "designs"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_function_is_refused(first, second, part, tmp_path):
    asked = {"law": LAW, "designs": Stream(one_batch(2048)), "workload": JOB, "target_loss": 3.0}
    ss.sweep(**{**asked, **first}, checkpoint=tmp_path / "state")
    with pytest.raises(ss.InvalidInput, match=f"it differs in {part}"):
        ss.sweep(**{**asked, **second}, checkpoint=tmp_path / "state")


SCRIPT = """
import sys
import scalesim as ss
from scalesim.sweeps import product
product.BLOCK_DESIGNS = 1 << 15
slow = "slow" in sys.argv
import time
found = ss.sweep(
    ss.HeadLaw(), 2e7, ss.Workload(context_length=131072), 2.6, checkpoint=sys.argv[1], every=0.0,
    progress=lambda now: time.sleep(0.2 * slow),
)
sys.stdout.buffer.write(found.kept.top.tobytes() + found.kept.frontier("memory").tobytes())
"""


@pytest.mark.slow
def test_killed_outright_and_resumed(tmp_path):
    """SIGKILL in the middle: the file is whole, and the sweep ends with the same answer."""
    run = [sys.executable, "-c", SCRIPT]
    whole = subprocess.run([*run, str(tmp_path / "whole")], capture_output=True, check=True).stdout
    path = tmp_path / "state"
    victim = subprocess.Popen([*run, str(path), "slow"], stdout=subprocess.DEVNULL)
    patience = time.monotonic() + 120
    while not path.exists() and time.monotonic() < patience:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    resumed = subprocess.run([*run, str(path)], capture_output=True, check=True).stdout
    assert resumed == whole
    assert len(whole) > 1000
