"""The public interface is typed: checkers and editors read it, and the script they read names all of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scalesim

HERE = Path(__file__).parent
SCRIPT = HERE / "user_script.py"


def test_the_script_touches_every_public_name():
    used = set(re.findall(r"\bss\.(\w+)", SCRIPT.read_text()))
    assert set(scalesim.__all__) - used == set()
    assert used - set(scalesim.__all__) == set()


@pytest.mark.slow
def test_pyright_reads_the_script_without_an_error():
    asked = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    asked += ["-p", str(HERE / "pyrightconfig.json")]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    found = json.loads(answer.stdout)
    errors = [e for e in found["generalDiagnostics"] if e["severity"] == "error"]
    assert found["summary"]["filesAnalyzed"] >= 1
    assert not errors, "\n".join(f"{e['range']['start']['line'] + 1}: {e['message']}" for e in errors)
