"""A text that only recall predicts: random strings, half of which stood earlier in the same window.

`python -m experiments.recall_corpus` writes out/recall.npy, the tokens that grids/recall.toml trains on. Each
window of 64 is strings of 8 to 12 of 16 tokens; a string is new with probability 1/2, else any of those
before it in the window. (Of 64 tokens in windows of 256 a model of 38 thousand parameters learns nothing in a
million.) `--window 256` writes out/recall_256.npy, for grids/recall_long.toml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

__all__ = ["recall_text"]

VOCABULARY, SHORTEST, LONGEST, WINDOW, TOKENS = 16, 8, 12, 64, 6_000_000


def recall_text(n_tokens: int, window: int, seed: int = 0) -> np.ndarray:
    """Return token numbers, (n_tokens rounded down to whole windows,)."""
    generator = np.random.default_rng(seed)
    windows = []
    for _ in range(n_tokens // window):
        strings: list[np.ndarray] = []
        found: list[np.ndarray] = []
        length = 0
        while length < window:
            if not strings or generator.random() < 0.5:
                strings.append(generator.integers(VOCABULARY, size=generator.integers(SHORTEST, LONGEST + 1)))
                found.append(strings[-1])
            else:
                found.append(strings[generator.integers(len(strings))])
            length += len(found[-1])
        windows.append(np.concatenate(found)[:window])
    return np.concatenate(windows).astype(np.uint16)


def main(folder: Path = Path("out")) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=WINDOW, help="tokens in which strings come again")
    window = parser.parse_args().window
    folder.mkdir(exist_ok=True)
    name = "recall.npy" if window == WINDOW else f"recall_{window}.npy"
    np.save(folder / name, recall_text(TOKENS, window))


if __name__ == "__main__":
    main()
