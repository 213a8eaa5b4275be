"""A report is one file: its figures within, nothing fetched, words escaped."""

from __future__ import annotations

import re

import pytest

import scalesim as ss
from scalesim.cli import main
from scalesim.report.web import html_page, write_page


def alone(text: str) -> bool:
    """Say whether a page asks for nothing else."""
    return not re.search(r"<script|<link|(src|href)=[\"'](?!#|data:)|@import|url\((?!#)", text)


def test_words_are_escaped() -> None:
    page = html_page("<t>", "<l>", [("<h>", [["<c>"], ["<d>"]], ["<s>"], "<svg></svg>")])
    assert not re.search("<[tlhcds]>", page)
    assert "<svg></svg>" in page


def test_a_folder_that_cannot_be_made_is_said(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ss.InvalidInput, match="cannot be written"):
        write_page("", tmp_path / "file" / "report.html")


def test_a_design_reports_itself() -> None:
    design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615)
    page = design.report(html=True)
    assert alone(page)
    assert "<svg" in page
    assert design.report() == f"{design!r}\n"


@pytest.mark.parametrize(
    "args",
    [
        ["redesign", "llama-3.1-8b", "--tokens", "15T", "--kv-bits", "8"],
        ["design", "--lattice", "paper"],
        pytest.param(
            ["design", "--frontier", "loss", "memory", "--lattice", "paper"], marks=pytest.mark.slow
        ),
        pytest.param(["design", "--map"], marks=pytest.mark.slow),
    ],
)
def test_a_command_writes_its_answer_as_one_page(args: list[str], tmp_path, capsys) -> None:
    path = tmp_path / "deep" / "report.html"
    assert main([*args, "--report", str(path)]) == 0
    page = path.read_text(encoding="utf-8")
    assert alone(page)
    assert page.count("<svg") >= 1
    assert "<table>" in page
