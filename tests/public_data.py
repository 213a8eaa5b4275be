"""The public measurements, which are not part of the project: tests that need them are skipped without."""

from pathlib import Path

import pytest

from experiments.public_data import public_runs


def need(name: str) -> Path:
    """Return the file or folder of that name among the measurements, or skip the test."""
    try:
        path = public_runs() / name
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if not path.exists():
        pytest.skip(f"the public measurements hold no {name}")
    return path
