"""What the site is made of besides the pages: figures, notebooks, help texts, and links to public names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from docs.equations import drawn
from docs.names import home, others, public

ROOT = Path(__file__).parents[1]
BROUGHT = {"experiments/results": "*.png", "notebooks": "*.ipynb"}
"""Folders beside docs/ whose files the site has, and which."""

_FENCES = re.compile(r"(^ *```.*?^ *```)", re.S | re.M)
_NAME = re.compile(r"(?<![\[`])`ss\.(\w+)((?:\.\w+)?(?:\([^`\n]*\))?)`(?!\])")
_REFERENCE = re.compile(r"^::: scalesim\.(\w+)$", re.M)
_HELP = re.compile(r"^<!-- help:(.*)-->$", re.M)


@event_priority(100)  # before the plugins: notebooks are one's to render
def on_files(files: Files, config: Any) -> Files:
    """Add what lies in other folders."""
    for folder, pattern in BROUGHT.items():
        for path in sorted((ROOT / folder).glob(pattern)):
            files.append(File(f"{folder}/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Return a page as the site has it."""
    if page.file.src_uri.endswith(".ipynb"):
        return markdown
    markdown = re.sub(rf"\]\(((?:\.\./)*)\.\./({'|'.join(BROUGHT)})/", r"](\1\2/", markdown)
    markdown = _HELP.sub(_help, markdown)
    markdown = _REFERENCE.sub(_reference, markdown)
    parts = _FENCES.split(drawn(markdown))
    return "".join(part if i % 2 else _NAME.sub(_link, part) for i, part in enumerate(parts))


def _reference(found: re.Match[str]) -> str:
    """Return what documents a public name, by where it is defined; of a module, the rest too."""
    name = found[1]
    said = f"::: {home(name)}"
    if home(name) != f"scalesim.{name}":
        return said
    rest = [f"::: {place}\n    options: {{ heading_level: 3 }}" for place in others(name)]
    return "\n\n".join([f"{said}\n    options: {{ members: false }}", *rest])


def _link(found: re.Match[str]) -> str:
    """Return a public name with a link to its reference."""
    if found[1] not in public():
        return found[0]
    return f"[`ss.{found[1]}{found[2]}`][{home(found[1])}]"


def _help(found: re.Match[str]) -> str:
    """Return the help of a command."""
    words = [sys.executable, "-m", "scalesim", *found[1].split(), "--help"]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    text = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT, env=environment).stdout
    return f"```text\n{text.rstrip()}\n```"
