"""A text for models of millions of parameters: the Python sources of the installed packages.

`python -m experiments.packages_corpus` copies every .py file under this environment's site-packages to
out/packages, which grids/gpu_runs.toml trains on: some 130 MB with the packages of requirements.lock. The
corpus's hash, in each row of the grid, tells whether two machines have the same text.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

__all__ = ["copy_sources"]


def copy_sources(folder: Path) -> int:
    """Copy the sources, in folders as they are; return the bytes."""
    root = Path(sysconfig.get_paths()["purelib"])
    total = 0
    for path in sorted(root.rglob("*.py")):
        to = folder / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        total += to.stat().st_size
    return total


def main(folder: Path = Path("out/packages")) -> None:
    print(f"{copy_sources(folder) / 1e6:.0f} MB of sources in {folder}")


if __name__ == "__main__":
    main()
