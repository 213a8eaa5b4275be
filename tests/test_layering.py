"""Arrows point one way: a room imports what stands above it in CONTRIBUTING's map, and nothing below."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "scalesim"


def layers() -> dict[str, int]:
    """Return the rank of each room, by the table of CONTRIBUTING.md, the lowest first."""
    found = {}
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    for rank, row in enumerate(rows):
        for name in re.findall(r"`([a-z_]+)(?:/|\.py)`", row):
            found[name] = rank
    return found


LAYERS = layers()
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem[0] != "_")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return the rooms that a file imports, and whether that is when it is loaded."""
    tree = ast.parse(path.read_text())
    checked = [
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    ]
    at_load = set(tree.body)
    found = []
    for node in ast.walk(tree):
        if node in checked or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        if names == ["scalesim"] and isinstance(node, ast.ImportFrom):
            names = [f"scalesim.{alias.name}" for alias in node.names]
        ours = [name.split(".")[1] for name in names if name.startswith("scalesim.")]
        found += [(room, node in at_load) for room in ours]
    return found


def test_every_room_stands_in_the_map_and_nothing_else_does():
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    rooms |= {p.stem for p in PACKAGE.glob("*.py") if p.stem[0] != "_"}
    assert set(LAYERS) == rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_what_stands_below_it(path):
    """A result draws and reports itself, so `report` may be imported from above, when that is asked for."""
    own = LAYERS[room_of(path)]
    for room, at_load in imports(path):
        if LAYERS[room] > own:
            assert room == "report", f"{path.name} imports {room}"
            assert not at_load, f"{path.name} imports {room} when it is loaded"
