import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import scalesim as ss
from scalesim.caching import fingerprint
from scalesim.sweeps.hosts import Hosts

SCRIPT = """
import hashlib, sys
import jax
import scalesim as ss
from scalesim.sweeps import product
product.BLOCK_DESIGNS = 1 << 16
found = ss.sweep(ss.HeadLaw(), 3e6, [ss.Workload(context_length=c) for c in (8192, 131072)], 2.6)
answers = b"".join(
    one.kept.top.tobytes() + b"".join(one.kept.frontier(m).tobytes() for m in ("memory", "flops"))
    for one in found
)
print(jax.local_device_count(), found[0].designs, hashlib.sha256(answers).hexdigest())
"""


def with_devices(n):
    return {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={n}", "JAX_PLATFORMS": "cpu"}


@pytest.mark.slow
def test_the_same_bits_on_1_2_and_8_devices():
    said = []
    for n in (1, 2, 8):
        run = [sys.executable, "-c", SCRIPT]
        printed = subprocess.run(
            run, env=with_devices(n), capture_output=True, text=True, check=True
        ).stdout.split()
        assert int(printed[0]) == n
        said.append(printed[1:])
    assert said[0] == said[1] == said[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(*options):
    program = "import sys; from scalesim.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", program, "sweep", "--target-loss", "2.6", "--json", *options]


def in_two(tmp_path, *options):
    """Start a sweep in two processes."""
    address = f"127.0.0.1:{free_port()}"
    return [
        subprocess.Popen(
            command(*options, "--coordinator", address, "--processes", "2", "--process", str(i)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=with_devices(1),
            cwd=tmp_path,
        )
        for i in range(2)
    ]


def answer(text):
    import json

    found = json.loads(text)
    return {name: value for name, value in found.items() if "second" not in name}


class Two(Hosts):
    """Two processes, of which the other was asked `other`."""

    def gather(self, values):
        return np.stack([values, [list(bytes.fromhex(part)) for part in self.other.values()]])


def test_processes_that_were_asked_different_questions_are_refused():
    asked = {"law": fingerprint(1), "target_loss": fingerprint(2.6)}
    two = Two(0, 2)
    object.__setattr__(two, "other", asked)
    two.agree(asked)
    object.__setattr__(two, "other", {**asked, "target_loss": fingerprint(2.7)})
    with pytest.raises(ss.InvalidInput, match=r"0 and 1 .* they differ in target_loss"):
        two.agree(asked)


def test_a_process_that_ends_between_joining_and_the_first_collective_is_a_sentence(monkeypatch):
    """Devices are found by a collective of their own, which failed with a traceback on a busy machine."""
    import jax

    from scalesim.sweeps import hosts

    def gone():
        raise RuntimeError("Unable to initialize backend 'cpu': Gloo context initialization failed")

    monkeypatch.setattr(hosts, "_on_abort", lambda message: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: None)
    monkeypatch.setattr(jax, "local_devices", gone)
    with pytest.raises(ss.Unreachable, match=r"stops: another process has ended .*Gloo context"):
        hosts.join(None, None, None)


@pytest.mark.slow
def test_two_processes_asked_differently_both_end_with_a_sentence(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    workers = [
        subprocess.Popen(
            [*command("--count", count, "--coordinator", address, "--processes", "2", "--process", str(i))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=with_devices(1), cwd=tmp_path,
        )
        for i, count in enumerate(("20M", "1B"))
    ]  # fmt: skip
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [2, 2], said
    assert all("they differ in designs" in text for text in said)


@pytest.mark.slow
def test_two_processes_give_the_answer_of_one(tmp_path):
    alone = subprocess.run(
        command("--count", "20M"), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    workers = in_two(tmp_path, "--count", "20M", "--checkpoint", "state")
    printed = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    assert answer(printed[0][0]) == answer(alone.stdout)
    assert printed[1][0] == "", "one process prints the answer"
    # Their checkpoints serve one process too, and the other way round.
    again = subprocess.run(
        command("--count", "20M", "--checkpoint", "state.1"),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert answer(again.stdout) == answer(alone.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_a_process_dies_the_other_says_so(victim, tmp_path):
    workers = in_two(tmp_path, "--count", "100B", "--checkpoint", "state", "--every", "0")
    states = [tmp_path / "state", tmp_path / "state.1"]
    patience = time.monotonic() + 120
    while not all(state.exists() for state in states) and time.monotonic() < patience:
        time.sleep(0.1)
    os.kill(workers[victim].pid, signal.SIGKILL)
    out, err = workers[1 - victim].communicate(timeout=60)
    workers[victim].communicate()
    assert workers[1 - victim].returncode == 1
    assert "another process has ended or cannot be reached" in err.strip().splitlines()[-1]
    assert out == ""
    from scalesim.sweeps.checkpoint import read_checkpoint

    for state in states:
        assert read_checkpoint(state, {}).next_block > 0, "what was written is whole"
