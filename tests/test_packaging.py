"""What a newcomer relies on before the first import of jax."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import scalesim

ROOT = Path(__file__).parent.parent


def test_both_lock_files_hold_the_same_versions():
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    from_uv = {p["name"]: p["version"] for p in locked if p["name"] != "scalesim-jax"}
    exported = re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert len(exported) > 50
    for name, version in exported:
        assert from_uv[name] == version, name


@pytest.mark.parametrize(
    "statement", ["import scalesim", "import scalesim.cli; scalesim.cli.main(['--help'])"]
)
def test_jax_is_imported_only_when_it_is_needed(statement):
    code = f"import sys\n{statement}\nassert 'jax' not in sys.modules and 'tyro' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", scalesim.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert getattr(scalesim, name).__doc__
    assert name in dir(scalesim)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        scalesim.serach  # noqa: B018


@pytest.mark.parametrize("name", ["fit", "search", "sweep", "train"])
def test_a_name_stays_a_function_whatever_is_imported(name):
    """No package bears the name of a public function: importing one would put it in the function's place."""
    for module in pkgutil.iter_modules(scalesim.__path__):
        importlib.import_module(f"scalesim.{module.name}") if module.name != "__main__" else None
    assert inspect.isfunction(getattr(scalesim, name))
    assert "args" not in inspect.signature(getattr(scalesim, name)).parameters


def test_a_star_import_brings_the_public_names():
    found: dict[str, object] = {}
    exec("from scalesim import *", found)
    assert set(scalesim.__all__) <= set(found)
