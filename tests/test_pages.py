"""The site: pages run as they stand, every name has one place, every page is found, and it builds."""

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from scalesim.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT))  # docs/ is no package of ours: it is read from the folder, as mkdocs reads it

import docs.equations  # noqa: E402
import docs.names  # noqa: E402
from docs.equations import drawn, tex  # noqa: E402
from docs.names import home, others, public  # noqa: E402

PAGES = [DOCS / "index.md", DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
QUICK = ("calibrate-hardware",)
"""Pages whose code takes less than five seconds."""
LESS = {
    "default_product(1e7": "default_product(1e5",
    "--count 1B": "--count 1M",
    "--bootstrap 200": "--bootstrap 20",
    "bootstrap=200": "bootstrap=20",
}
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.S | re.M)
NAV = re.findall(r"^ +- .*?([\w./-]+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), re.M)


def blocks(page):
    text = page.read_text()
    for much, less in LESS.items():
        text = text.replace(much, less)
    return BLOCK.findall(text)


def run(page):
    """Run a page's blocks in their order, in the current folder."""
    made = {"__name__": page.stem}
    for kind, title, body in blocks(page):
        if title:
            Path(title).write_text(body)
        elif kind == "python":
            exec(compile(body, page.name, "exec"), made)
        elif kind == "bash":
            for line in body.splitlines():
                words = shlex.split(line)
                assert words[0] == "scalesim", line
                assert main(words[1:]) == 0, line
        else:
            assert kind in ("console", "text"), f"{page.name}: what is {kind}?"
    return made


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=() if p.stem in QUICK else pytest.mark.slow, id=str(p.relative_to(DOCS)))
        for p in PAGES
        if blocks(p)
    ],
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib, "is_interactive", lambda: False)
    run(page)
    assert "Traceback" not in capsys.readouterr().err


def test_what_a_page_calls_is_a_command():
    for page in PAGES:
        for kind, _, body in blocks(page):
            for line in body.splitlines() if kind in ("bash", "console") else ():
                words = line.removeprefix("$ ").split()
                if words[0] == "scalesim":
                    assert words[1] in COMMANDS or words[1].startswith("--"), line


def test_every_public_name_is_on_one_page_of_the_reference():
    found = [
        name
        for page in sorted((DOCS / "reference").glob("*.md"))
        for name in re.findall(r"^::: scalesim\.(\w+)$", page.read_text(), re.M)
    ]
    assert sorted(found) == sorted(public())
    for name in found:
        module, _, own = home(name).rpartition(".")
        assert importlib.util.find_spec(module) is not None, (name, own)
    assert "scalesim.cost.flops.forward_flops" in others("cost")


def test_every_page_is_in_the_navigation():
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")]
    notebooks = [str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert sorted(NAV) == sorted(pages + notebooks)


def headings(page: Path) -> set[str]:
    """Return what links call a page's headings: lower case, words joined by hyphens."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_every_link_between_pages_leads_to_a_heading():
    for page in DOCS.rglob("*.md"):
        for name, anchor in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", page.read_text()):
            target = (page.parent / name).resolve() if name else page
            assert anchor in headings(target), f"{page.name} links to {name}#{anchor}"


def test_every_figure_is_in_the_gallery():
    shown = re.findall(r"\]\(([^)]+\.png)\)", (DOCS / "gallery.md").read_text())
    there = [DOCS / "images", ROOT / "experiments/results"]
    figures = [str(path.relative_to(ROOT)) for folder in there for path in folder.glob("*.png")]
    assert sorted(os.path.relpath((DOCS / path).resolve(), ROOT) for path in shown) == sorted(figures)


def test_every_command_has_its_help_on_the_page_of_commands():
    text = (DOCS / "reference/commands.md").read_text()
    assert re.findall(r"^<!-- help: (\w+) -->$", text, re.M) == list(COMMANDS)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("L = E + A / N^alpha", r"L = E + \frac{A}{{N}^{\alpha}}"),
        ("L = [(Nc / N)^b + 1]^g", r"L = {\left[{\left(\frac{N_{c}}{N}\right)}^{b} + 1\right]}^{g}"),
        ("y = log(L(x_b) / L(x_a))", r"y = \log\left(\frac{L\left(x_{b}\right)}{L\left(x_{a}\right)}\right)"),
        ("v = n_kv_head (k/64)^-u", r"v = n_{\text{kv\_head}} \, {\left(\frac{k}{64}\right)}^{-u}"),
        ("N = 2e8", r"N = 2 \cdot 10^{8}"),
    ],
)  # fmt: skip
def test_an_equation_is_drawn_as_it_is_meant(written, shown):
    assert tex(written) == (shown, len(written))


def test_the_examples_of_what_builds_the_site_hold():
    for module in (docs.equations, docs.names):
        tried = doctest.testmod(module)
        assert tried.attempted
        assert not tried.failed


@pytest.mark.parametrize(
    "text",
    ["with the width = 2 or so", "`L = a^b`", ">>> L = a**b", "k = 2 is held", "    scalesim fit x --law y"],
)
def test_what_is_no_equation_stays(text):
    assert drawn(text) == text


def test_equations_are_drawn_in_sentences_and_by_themselves():
    text = "A power, L = E + A N^-b, falls.\n\n    L = E + A N^-b\n        (1 + C s^c)\n\nAnd `L = a^b`."
    assert drawn(text).split("\n\n") == [
        r"A power, \(L = E + A \, {N}^{-b}\), falls.",
        r"\[L = E + A \, {N}^{-b} \, \left(1 + C \, {s}^{c}\right)\]",
        "And `L = a^b`.",
    ]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings_handlers", "mkdocs_jupyter"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the site needs {name}: install the group docs of pyproject.toml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    html = "".join(path.read_text() for path in (tmp_path / "site/reference").glob("*.html"))
    assert [name for name in public() if f'id="{home(name)}"' not in html] == []
    assert r"\frac{A}{{N}^{\alpha}}" in html
    assert html.count("Examples:") >= len(COMMANDS)
    assert (tmp_path / "site/notebooks/main_job.html").exists()
