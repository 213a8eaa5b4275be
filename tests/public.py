"""The public run tables, which are not part of the project: used where they are present."""

import os
from pathlib import Path

import pytest


def public_runs(name):
    """Return a public table's path; skip the test where it is not there."""
    here = Path(__file__).resolve().parents[1]
    for folder in (os.environ.get("SCALESIM_PUBLIC_RUNS"), here.parent / "shared" / "data"):
        if folder and (Path(folder) / name).exists():
            return Path(folder) / name
    pytest.skip(f"{name} is not here: set SCALESIM_PUBLIC_RUNS to the folder of the public run tables")
