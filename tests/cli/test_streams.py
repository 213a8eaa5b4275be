"""Standard streams that are closed, full, left early or know few letters: an answer or a sentence."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys; from scalesim.cli import main; sys.exit(main())"


def shell(line, **changes):
    command = f'"{sys.executable}" -c "{PROGRAM}"'
    environment = {k: v for k, v in {**os.environ, **changes}.items() if v is not None}
    return subprocess.run(
        ["bash", "-c", line.replace("scalesim", command)],
        capture_output=True,
        env=environment,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("scalesim cost --model gpt2 --json > /dev/full", 1, b"No space left"),
        ("scalesim --help > /dev/full", 1, b"No space left"),
        ("scalesim cost --model gpt2 --json >&-", 0, b""),
        ("scalesim cost --model gpt2 --json 2>&-", 0, b""),
        ("scalesim cost --model gpt2 --json <&-", 0, b""),
        ("scalesim cost --model gpt2 | head -c 1; exit ${PIPESTATUS[1]}", 0, b""),
    ],
)
def test_streams(line, code, says):
    found = shell(line)
    assert found.returncode == code, found.stderr
    assert says in found.stderr
    assert b"Traceback" not in found.stderr
    assert b"Exception ignored" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_few_letters(changes):
    found = shell("scalesim cost --model gpt2", **changes)
    assert found.returncode == 0, found.stderr
    assert b"?" not in found.stdout
    found.stdout.decode(changes.get("PYTHONIOENCODING", "ascii"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"XDG_CACHE_HOME": "/proc/none", "JAX_COMPILATION_CACHE_DIR": None},
        {"XDG_CACHE_HOME": None, "HOME": "/dev/null", "JAX_COMPILATION_CACHE_DIR": None},
        {"JAX_COMPILATION_CACHE_DIR": "/proc/none"},
        {"TMPDIR": "/nowhere"},
    ],
)
def test_where_nothing_can_be_kept_all_works_the_same(changes):
    found = shell("scalesim redesign llama-3.1-8b --tokens 15T --context 128K --json", **changes)
    assert found.returncode == 0
    assert found.stderr == b""
