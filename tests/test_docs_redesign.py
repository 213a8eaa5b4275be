"""The Python of docs/redesign.md runs as it stands, in order, and what the page says of it holds."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "redesign.md"


@pytest.mark.slow
def test_the_blocks_of_the_page_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(block, made)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 10 + 8
    assert {path.name for path in (tmp_path / "better").iterdir()} >= {
        "config.json",
        "report.html",
        "grid.toml",
    }
    shown = [" ".join(line.split()) for line in PAGE.read_text().splitlines()]
    for line in str(made["found"]).splitlines()[1:16]:
        assert " ".join(line.split()) in shown
    assert made["served"].devices == 8


def test_the_readme_shows_rows_of_the_page():
    readme = (PAGE.parents[1] / "README.md").read_text()
    (table,) = re.findall(r"Redesign of meta-llama.*?\n(.*?)\n\.\.\.", readme, re.S)
    page = {" ".join(line.split()) for line in PAGE.read_text().splitlines()}
    rows = [" ".join(line.split()) for line in table.splitlines()]
    assert len(rows) >= 8
    assert set(rows) <= page
