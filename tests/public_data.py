"""The public measurements, which are not part of the project: tests that need them are skipped without."""

import pytest

from experiments.public_data import public_runs


def need(name):
    """Return the folder of one set of measurements, or skip."""
    try:
        folder = public_runs() / name
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if not folder.is_dir():
        pytest.skip(f"the public measurements hold no {name}")
    return folder
