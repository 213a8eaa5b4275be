"""README's Python runs as it stands, but for how much is asked for."""

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
LESS = {
    "default_product(1e8)": "default_product(1e6)",
    "with_bootstrap(mine, 200)": "with_bootstrap(mine, 20)",
}


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


@pytest.mark.slow
def test_the_library_in_a_dozen_lines():
    whole = blocks()[0]
    for much, less in LESS.items():
        assert much in whole
        whole = whole.replace(much, less)
    made: dict = {}
    exec(whole, made)
    assert made["design"].best.loss <= 2.615 * (1 + 1e-6)


def test_an_optax_loop_of_the_readme_fits_the_law():
    made: dict = {}
    exec(blocks()[1], made)
    off = np.asarray(made["law"].loss(made["x"])) - made["runs"].loss
    assert np.sqrt(np.mean(off**2)) < 0.02
