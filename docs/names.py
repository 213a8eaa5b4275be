"""Where each public name is defined, by reading the sources: nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

__all__ = ["home", "others", "public"]

ROOT = Path(__file__).parents[1]


@cache
def public() -> dict[str, str]:
    """Return each public name's module, from the stub of the package."""
    tree = ast.parse((ROOT / "scalesim/__init__.pyi").read_text(encoding="utf-8"))
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in lines for alias in node.names}


def home(name: str) -> str:
    """Return where a public name is defined, with dots.

    Raises:
        KeyError: it is no public name.

    >>> home("search"), home("FIGURE_1"), home("cost")
    ('scalesim.design.search.search', 'scalesim.cost.paper.FIGURE_1', 'scalesim.cost')
    """
    module = public()[name]
    return f"scalesim.{name}" if module == "scalesim" else _defined(module, name)


def others(module: str) -> list[str]:
    """Return where a public module's names are defined that are not public names themselves.

    >>> others("numerics")[:2]
    ['scalesim.numerics.descent.descend', 'scalesim.numerics.descent.newton']
    """
    tree = ast.parse(_source(ROOT / "scalesim" / module).read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    names = listed[0] if listed else list(_names(f"scalesim.{module}")[1])
    return [_defined(f"scalesim.{module}", name) for name in names if name not in public()]


def _source(path: Path) -> Path:
    """Return what lists a module's names: its stub, if it has one."""
    if not path.is_dir():
        return path.with_suffix(".py")
    stub = path / "__init__.pyi"
    return stub if stub.exists() else path / "__init__.py"


@cache
def _names(module: str) -> tuple[frozenset[str], dict[str, tuple[str, str]]]:
    """Return what a module defines, and what it imports from where."""
    source = _source(ROOT / module.replace(".", "/"))
    own: set[str] = set()
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            own |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(own), imported


def _defined(module: str, name: str) -> str:
    own, imported = _names(module)
    return f"{module}.{name}" if name in own else _defined(*imported[name])
