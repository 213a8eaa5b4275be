"""One device, eight virtual ones and two processes train to the same losses."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from scalesim.errors import InvalidInput
from scalesim.training import make_mesh
from scalesim.training.mesh import check_mesh
from tests.training.small import SHAPE

ROOT = Path(__file__).parents[2]
CHILD = """
import json, sys
import jax
devices, model, coordinator, process = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if coordinator != "none":
    jax.distributed.initialize(coordinator, 2, process)
from scalesim.training import make_mesh, train
from tests.training.small import TEXT, config
mesh = make_mesh(model=model) if jax.device_count() > 1 else None
assert jax.device_count() == devices
folder = sys.argv[5] if len(sys.argv) > 5 else None
result = train(config(), TEXT, folder, mesh=mesh)
if process == 0:
    print("RESULT", json.dumps([result.losses.tolist(), result.loss]))
"""


def start(local, total, model, coordinator="none", process=0, folder=None):
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={local}",
    }
    command = [sys.executable, "-c", CHILD, str(total), str(model), coordinator, str(process)]
    command += [str(folder)] if folder else []
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT
    )


def result_of(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-2000:]
    line = next(x for x in out.splitlines() if x.startswith("RESULT"))
    losses, loss = json.loads(line.removeprefix("RESULT "))
    return np.array(losses), loss


@pytest.fixture(scope="module")
def one():
    return result_of(start(1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("model", [1, 2, 4])
def test_eight_devices_are_one(one, model):
    losses, loss = result_of(start(8, 8, model))
    np.testing.assert_allclose(losses, one[0], rtol=1e-5)
    assert loss == pytest.approx(one[1], rel=1e-5)


@pytest.mark.slow
def test_two_processes_are_one_and_keep_one_checkpoint(one, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    both = [start(2, 4, 2, address, i, tmp_path) for i in range(2)]
    try:
        losses, loss = result_of(both[0])
        both[1].communicate(timeout=60)
    finally:
        for process in both:
            process.kill()
            process.communicate()
    np.testing.assert_allclose(losses, one[0], rtol=1e-5)
    assert loss == pytest.approx(one[1], rel=1e-5)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["40"]


def test_a_mesh_is_of_the_devices_there_are():
    with pytest.raises(InvalidInput, match="data x model must be"):
        make_mesh(data=3, model=5)


@pytest.mark.parametrize(
    ("rows", "data", "model", "says"),
    [
        (9, 2, 1, "9 windows does not divide over 2 devices"),
        (8, 1, 3, "n_head = 4 does not divide over 3"),
        (8, 1, 64, "n_head = 4 does not divide"),
    ],
)
def test_shapes_that_do_not_divide_the_mesh_are_refused(rows, data, model, says):
    mesh = jax.sharding.AbstractMesh((data, model), ("data", "model"))
    with pytest.raises(InvalidInput, match=says):
        check_mesh(SHAPE, rows, mesh)
