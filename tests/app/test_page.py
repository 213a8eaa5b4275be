"""The page in a browser: sliders move the best design, links reproduce views, wrong input is said in place.

These need `scalesim-jax[app]`, playwright and a Chromium (of the system, or playwright's own).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import scalesim as ss

pytest.importorskip("nicegui", reason="the page needs scalesim-jax[app]")
api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")

ROOT = Path(__file__).parents[2]
PATIENCE = 90_000  # milliseconds, for what compiles; times are never asserted


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "scalesim", "explore", "--no-open"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ)
    ) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found is not None
        yield found[0]
        server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    place = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        try:
            made = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium can be started here: {str(error).splitlines()[0]}")
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    made = browser.new_page()
    said: list[str] = []
    made.on("pageerror", lambda error: said.append(str(error)))
    yield made
    made.close()
    assert not said


def opened(page: Any, url: str) -> Any:
    page.goto(url)
    page.wait_for_selector(".card.best", timeout=PATIENCE)
    return page


def heads(page: Any) -> str:
    return page.locator(".card.best .heads").inner_text()


def test_the_page_opens_and_its_slider_moves_the_answer(page: Any, address: str) -> None:
    """The smoke test, of some ten seconds."""
    opened(page, f"{address}?asks=loss&context=8K&batch_size=1&show=sure")
    before = heads(page)
    page.get_by_role("slider", name="Context, tokens").locator("[tabindex='0']").focus()
    for _ in range(16):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("w => document.querySelector('.card.best .heads').innerText !== w", arg=before,
                           timeout=PATIENCE)  # fmt: skip


@pytest.mark.slow
def test_a_slider_from_8k_to_1m_moves_the_heads_as_search_says(page: Any, address: str) -> None:
    opened(page, f"{address}?asks=loss&context=8K&batch_size=1&show=sure")
    fit, seen = ss.named_fit("default"), []
    slider = page.get_by_role("slider", name="Context, tokens").locator("[tabindex='0']")
    for context, presses in ((8192, 0), (65536, 12), (1048576, 16)):
        slider.focus()
        for _ in range(presses):
            page.keyboard.press("ArrowRight")
        s = ss.search(fit, ss.Workload(context_length=context), 2.615).best.shape
        words = f"{s.n_head:g} : {s.n_kv_head:g} of {s.head_dim:g}"
        page.wait_for_function("w => document.querySelector('.card.best .heads').innerText === w", arg=words,
                               timeout=PATIENCE)  # fmt: skip
        seen.append(words)
    assert len(set(seen)) == 3


@pytest.mark.slow
def test_a_link_reproduces_the_view(page: Any, address: str, browser: Any) -> None:
    opened(page, address)
    page.get_by_role("textbox", name="Context, tokens, typed").fill("8K:0.7 64K:0.3")
    page.get_by_role("tab", name="How sure").click()
    page.wait_for_url(re.compile("show=sure"), timeout=PATIENCE)
    page.wait_for_selector("table.sure")
    assert "--context 8K:0.7 64K:0.3" in page.locator("pre").first.inner_text()
    other = browser.new_page()
    opened(other, page.url)
    other.wait_for_selector("table.sure", timeout=PATIENCE)
    for part in (".cards", ".figure", "pre"):
        assert other.locator(part).first.inner_text() == page.locator(part).first.inner_text()
    other.close()


@pytest.mark.slow
def test_wrong_input_is_said_in_place_and_the_answer_stays(page: Any, address: str, tmp_path: Path) -> None:
    opened(page, f"{address}?show=sure")
    before = heads(page)
    page.get_by_role("textbox", name="Context, tokens, typed").fill("8Q")
    page.get_by_text("is not a size").wait_for()
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "mystery"}')
    page.locator("input[type=file]").set_input_files(config)
    page.get_by_role("alert").filter(has_text="mystery").wait_for()
    assert heads(page) == before


@pytest.mark.slow
def test_a_config_is_redesigned_and_its_link_holds_it(page: Any, address: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    model = ss.known_model("llama-3.2-1b")
    config.write_text(json.dumps(ss.to_huggingface(model.shape, max_context=131072)))
    opened(page, f"{address}?show=sure&tokens=9T")
    page.locator("input[type=file]").set_input_files(config)
    page.wait_for_url(re.compile("config="), timeout=PATIENCE)
    found = ss.redesign(model.shape, 9e12, ss.Workload(context_length=131072, batch_size=16))
    assert heads(page) == found.best.heads_text
    opened(page, page.url)
    assert heads(page) == found.best.heads_text


@pytest.mark.slow
def test_a_program_serves_the_page_beside_itself(page: Any) -> None:
    found = ss.redesign("llama-3.2-1b", 9e12, ss.Workload(context_length=65536, batch_size=8))
    shown = found.explore()
    assert shown.url in shown._repr_html_().replace("&amp;", "&")
    opened(page, shown.url)
    assert heads(page) == found.best.heads_text
    design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615)
    assert design.explore().url.split("/?")[0] == shown.url.split("/?")[0]


@pytest.mark.slow
def test_words_of_an_address_are_no_markup(page: Any, address: str) -> None:
    opened(page, f"{address}?model=<img src=x onerror=document.title='taken'>")
    assert "is not known" in page.locator(".wrong").inner_text()
    assert page.title() == "scalesim explore"


@pytest.mark.slow
def test_a_question_without_an_answer_says_the_nearest(page: Any, address: str) -> None:
    page.goto(f"{address}?hardware=l4&context=1M&max_devices=1&batch_size=1024&show=sure")
    page.locator(".wrong").filter(has_text=re.compile(r"\w")).wait_for(timeout=PATIENCE)


@pytest.mark.slow
def test_every_control_has_a_name_and_tabs_go_by_keyboard(page: Any, address: str) -> None:
    opened(page, f"{address}?show=sure")
    tree = page.locator("aside").aria_snapshot()
    for kind in ("slider", "textbox", "combobox", "button"):
        assert not re.search(rf"- {kind}(:|$)", tree, re.M), f"a {kind} without a name"
    page.get_by_role("tab", name="How sure").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Draw the map").wait_for()


def test_the_first_question_waits_for_the_servers_start() -> None:
    """NiceGUI's start walks over every object, and would break what another thread is making."""
    code = """
import asyncio
from concurrent.futures import Future
from scalesim.app import page
asked = []
page._pool.submit = lambda *question: asked.append(question) or Future()
app = page.application()
assert not asked
async def begun():
    async with page._begun(None):
        assert len(asked) == 1
asyncio.run(begun())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
