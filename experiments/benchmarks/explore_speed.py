"""How fast the page of `scalesim explore` answers, in a headless Chromium.

    python -m experiments.benchmarks.explore_speed [--moves 50] [--memory-moves 1000]

Needs `scalesim-jax[app]`, playwright and a Chromium. A move is a key press on the context's slider; it is
timed in the browser, from the key to the frame after the new answer stands in the page. Writes
results/explore_speed.csv.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv

__all__ = ["main"]

_WATCH = """() => {
  window.moved = []; let at = null;
  document.addEventListener('keydown', () => { at = performance.now(); }, true);
  new MutationObserver(() => { if (at !== null) { const from = at; at = null;
    requestAnimationFrame(() => window.moved.push(performance.now() - from)); } })
    .observe(document.querySelector('.asked'), {childList: true, subtree: true, characterData: true});
}"""


@contextmanager
def served(cache: str | None = None) -> Iterator[tuple[str, int, float]]:
    """Serve the page; yield its address, its process and when it was started."""
    env = dict(os.environ) | ({} if cache is None else {"JAX_COMPILATION_CACHE_DIR": cache})
    start = time.perf_counter()
    command = [sys.executable, "-m", "scalesim", "explore", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found is not None
        yield found[0], server.pid, start
        server.terminate()


def opened(browser: Any, url: str) -> Any:
    """Open a view and wait for its answer."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(url)
    page.wait_for_selector(".card.best", timeout=180_000)
    page.evaluate(_WATCH)
    return page


def press(page: Any, i: int) -> None:
    """Move the context's slider by one stop, to and fro."""
    page.get_by_role("slider", name="Context, tokens").locator("[tabindex='0']").focus()
    page.keyboard.press("ArrowRight" if (i // 5) % 2 == 0 else "ArrowLeft")


def moves(page: Any, count: int, pause: float) -> list[float]:
    """Return the milliseconds of so many moves, each after the last one's answer and a pause."""
    page.evaluate("() => { window.moved = []; }")
    for i in range(count):
        press(page, i)
        page.wait_for_function("n => window.moved.length >= n", arg=i + 1, timeout=60_000)
        time.sleep(pause)
    return list(page.evaluate("() => window.moved"))


def resident(pid: int) -> float:
    """Return a process's resident memory, MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) / 1024


def row(what: str, values: list[float], unit: str) -> Row:
    """Return a line of the table: the median and the spread of some values."""
    ordered = sorted(values)
    print(f"{what}: {statistics.median(ordered):.4g} {unit}, {machine_load()}", flush=True)
    return {"what": what, "median": statistics.median(ordered), "tenth": ordered[len(ordered) // 10],
            "ninetieth": ordered[(9 * len(ordered)) // 10], "count": len(ordered), "unit": unit,
            "machine": machine_load()}  # fmt: skip


def first_answers(browser: Any) -> list[Row]:
    """Time from the start of the process to the first answer in the page."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for what in ("first answer, nothing compiled", "first answer, compiled before"):
            with served(cache) as (url, _, start):
                page = opened(browser, url)
                rows.append(row(what, [time.perf_counter() - start], "s"))
                time.sleep(3.0)  # let it write what it compiled
                page.close()
    return rows


def visitors(browser: Any, url: str, count: int, each: int) -> list[Row]:
    """Let several visitors move at a time; each must end with its own answer."""
    hardware = ["h100-sxm", "h200-sxm", "b200-sxm", "mi300x", "a100-80gb-sxm"]
    chosen = [(hardware[i % 5], 4 + i) for i in range(count)]
    pages = [opened(browser, f"{url}?hardware={name}&batch_size={batch}&show=sure") for name, batch in chosen]
    for i in range(each):
        for page in pages:
            press(page, i)
        for page in pages:
            page.wait_for_function("n => window.moved.length >= n", arg=i + 1, timeout=120_000)
    mixed = 0
    for page, (name, batch) in zip(pages, chosen, strict=True):
        said = page.locator(".asked").inner_text()
        alone = opened(browser, page.url)
        same = alone.locator(".cards").inner_text() == page.locator(".cards").inner_text()
        mixed += not (same and f"{batch} at a time" in said and name in page.url + "h100-sxm")
        alone.close()
    times = [value for page in pages for value in page.evaluate("() => window.moved")]
    for page in pages:
        page.close()
    return [row(f"a move of {count} visitors at once", times, "ms"),
            row("their answers that are not their own", [float(mixed)], "answers")]  # fmt: skip


def main(arguments: list[str] | None = None, folder: Path = RESULTS) -> list[Row]:
    """Measure, print and write."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser()
    parser.add_argument("--moves", type=int, default=50)
    parser.add_argument("--memory-moves", type=int, default=1000)
    options = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        rows = first_answers(browser)
        with served() as (url, pid, _):
            page = opened(browser, f"{url}?show=context")
            moves(page, 4, 0.0)
            rows.append(row("a move, while dragging", moves(page, options.moves, 0.1), "ms"))
            rows.append(row("a move, once figures are drawn", moves(page, options.moves, 1.2), "ms"))
            page.close()
            page = opened(browser, f"{url}?asks=loss&batch_size=1&show=context")
            moves(page, 4, 0.0)
            rows.append(row("a move, target loss", moves(page, options.moves, 0.1), "ms"))
            page.close()
            rows += visitors(browser, url, 10, 5)
            page = opened(browser, f"{url}?show=sure")
            held = [resident(pid)]
            for _ in range(max(options.memory_moves // 100, 1)):
                moves(page, min(options.memory_moves, 100), 0.0)
                held.append(resident(pid))
            for at in sorted({1, len(held) // 2, len(held) - 1}):
                rows.append(row(f"memory after {at * 100} moves", [held[at]], "MiB"))
        browser.close()
    print_rows("The page of scalesim explore", rows)
    write_csv(folder / "explore_speed.csv", rows)
    return rows


if __name__ == "__main__":
    main()
