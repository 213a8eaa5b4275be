"""The page itself, in NiceGUI: one `Page` a visitor, which asks the library and shows what it answers."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from nicegui import Client, background_tasks, ui

import scalesim as ss
from scalesim.app import answers, exports, figures
from scalesim.app.answers import answer
from scalesim.app.cards import cards
from scalesim.app.controls import controls
from scalesim.app.guard import Guard
from scalesim.app.parts import Answer
from scalesim.app.view import FIGURES, View
from scalesim.app.words import command_line, python_text
from scalesim.errors import InvalidInput, Unreachable

__all__ = ["Page", "application"]

VISITORS = 64
"""Pages open at a time; each holds one answer."""
_WORKERS = 3
_ANSWER = 'id=answer tabindex=-1 aria-label="The answer"'
_STILL = 0.3
"""Seconds without a move after which figures are drawn."""

_pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="answer")
_drawers = ThreadPoolExecutor(2, thread_name_prefix="figure")  # no answer waits for a figure
_log = logging.getLogger("scalesim.app")


class Page:
    """What one visitor sees. A question that comes while another is answered waits; of several, the last.

    Attributes:
        view: what is asked now.
        found: the last answer.
        data: what its open figure was drawn from, by the figure's name.
    """

    def __init__(self, view: View, client: Client, wrong: str = "") -> None:
        self.view, self.client = view, client
        self.found: Answer | None = None
        self.failed: View | None = None
        self.data: dict[str, Any] = {}
        self.working, self.wanted_map = False, False
        self.moved = asyncio.Event()
        self._build(wrong)
        self.ask()

    # What is asked.

    def ask(self, **fields: Any) -> None:
        """Change fields of the view, and answer it; fields that do not go together are said."""
        try:
            self.view = self.view.changed(**fields)
        except InvalidInput as error:
            self.wrong.text = str(error)
            self.wrong.set_visibility(True)
            return
        self.moved.set()
        if "show" in fields:
            self.wanted_map = False
        if not self.working:
            self.working = True
            background_tasks.create(self._work(), name="explore")

    async def _run(self, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(_drawers, call, *args)

    async def _work(self) -> None:
        """Answer until nothing newer is asked, then draw the open figure."""
        try:
            while not self.client.is_deleted:
                view = self.view
                self.moved.clear()
                if _question(view) not in (self.found and _question(self.found.view), self.failed):
                    await self._answer(view)
                if self.view is not view:
                    continue
                if await self._moved_before(asyncio.sleep(_STILL)):
                    continue
                self._say(view)
                if not await self._moved_before(self._figure(view)):
                    return
        finally:
            self.working = False

    async def _moved_before(self, other: Coroutine[Any, Any, None]) -> bool:
        """Do something until the question changes; say whether it did."""
        doing, moved = asyncio.ensure_future(other), asyncio.ensure_future(self.moved.wait())
        await asyncio.wait({doing, moved}, return_when=asyncio.FIRST_COMPLETED)
        changed = moved.done()
        for task in (doing, moved):
            task.cancel()
        return changed

    async def _answer(self, view: View) -> None:
        waiting = asyncio.get_running_loop().call_later(0.6, partial(self.busy.set_visibility, True))
        try:
            if self.found is None:  # whatever became of that question, this one is asked
                await asyncio.wait([asyncio.wrap_future(_warm())])
            found = await asyncio.get_running_loop().run_in_executor(_pool, answer, view)
        except (InvalidInput, Unreachable) as error:
            self._wrong(view, str(error))
            return
        except Exception:
            _log.exception("a question of the page failed: %s", command_line(view))
            self._wrong(
                view, "This question met an error of ours; the command line below would show it whole."
            )
            return
        finally:
            waiting.cancel()
            self.busy.set_visibility(False)
        self.found, self.failed, self.data = found, None, {}
        self.wrong.set_visibility(False)
        self.asked.content = html.escape(found.asked)
        self.headline.content = self.brief.content = html.escape(found.headline)
        self.answer.content = cards(found)
        self.notes.content = _notes(found)
        self.answer.classes(remove="stale")
        self.figure.classes(add="stale")
        if view.show == "sure":
            self._draw("sure", figures.sure_figure(found), None)

    def _wrong(self, view: View, sentence: str) -> None:
        self.failed = _question(view)
        self.wrong.text = sentence
        self.wrong.set_visibility(True)
        if self.found is None:
            self.headline.content = self.brief.content = "This question has no answer."
        for part in (self.answer, self.figure):
            part.classes(add="stale")

    # The open figure.

    async def _figure(self, view: View) -> None:
        """Draw the open figure of an answered view, giving way to what is asked meanwhile."""
        found, show = self.found, view.show
        if found is None or _question(found.view) != _question(view):
            return
        if show in self.data:
            self._draw(show, self.data[show][0], self.data[show][1])
            return
        if show == "map" and not self.wanted_map:
            self.figure.content = (
                "<p class='quiet'>Each context and loss is a search of its own: ask for it.</p>"
            )
            self.figure.classes(remove="stale")
            self.drawer.set_visibility(True)
            return
        self.drawer.set_visibility(False)
        waiting = asyncio.get_running_loop().call_later(0.5, partial(self.drawing.set_visibility, True))
        try:
            if show == "context":
                await self._contexts(found, view)
            elif show == "frontier":
                front = await self._run(answers.front, found)
                self._draw(show, await self._run(figures.frontier_figure, front), front, view)
            elif show == "operators":
                costs = await self._run(answers.operators, found)
                hardware = ss.load_hardware(view.hardware)
                self._draw(show, figures.operators_figure(costs, hardware), costs, view)
            elif show == "map":
                best = await self._run(answers.best_map, found)
                self._draw(show, await self._run(figures.map_figure, best), best, view)
            else:
                self._draw(show, figures.sure_figure(found), None, view)
        except (InvalidInput, Unreachable) as error:
            self.figure.content = f"<p role='alert'>{html.escape(str(error))}</p>"
        except Exception:
            _log.exception("a figure of the page failed: %s, %s", show, command_line(view))
            self.figure.content = "<p role='alert'>This figure met an error of ours.</p>"
        finally:
            waiting.cancel()
            self.drawing.set_visibility(False)

    async def _contexts(self, found: Answer, view: View) -> None:
        """Draw the savings over context as they are found."""
        rows: list[dict[str, Any]] = []
        for context in answers.CONTEXTS:
            row = await self._run(answers.at_context, found, context)
            if self.view is not view:
                return
            rows += [row] if row is not None else []
            if len(rows) > 1 and context != answers.CONTEXTS[-1]:
                self.figure.content = figures.context_figure(found, rows)
        self._draw("context", figures.context_figure(found, rows), rows, view)

    def _draw(self, show: str, content: str, data: Any, view: View | None = None) -> None:
        self.data[show] = (content, data)
        if view is None or self.view is view:
            self.drawer.set_visibility(False)
            self.figure.content = content
            self.figure.classes(remove="stale")

    # Words and files.

    def _say(self, view: View) -> None:
        """Show the view's command line and Python, and put it into the address."""
        self.line.content = _code(command_line(view))
        self.python.content = _code(python_text(view))
        with self.client:
            ui.navigate.history.replace(f"/{'?' if view.query else ''}{view.query}")

    async def _take(self, name: str, make: Callable[[Answer], bytes]) -> None:
        found = self.found
        if found is None:
            return
        try:
            data = await self._run(make, found)
        except (InvalidInput, Unreachable) as error:
            ui.notify(str(error), type="warning", multi_line=True, close_button="Close")
            return
        ui.download.content(data, name)

    async def _take_figure(self, ending: str) -> None:
        show = self.view.show
        if show not in self.data:
            ui.notify("The figure is not drawn yet.", type="warning")
            return
        make = exports.figure_png if ending == "png" else exports.figure_csv
        data = self.data[show][1]
        await self._take(f"{show}.{ending}", lambda found: make(found, show, data))

    # The page.

    def _build(self, wrong: str) -> None:
        ui.html('<a class="skip" href="#answer">To the answer</a>', sanitize=False)
        with ui.element("header").classes("head"):
            ui.html("scalesim: what to build, by where it serves", tag="h1")
            ui.html(
                "The cheapest transformer at the same predicted loss. Move a slider: the best design moves.",
                tag="p",
            )
        self.brief = ui.html("", sanitize=False).classes("brief").props("aria-hidden=true")
        with ui.element("div").classes("shell"):
            self.side = ui.element("aside").classes("side").props('aria-label="The question"')
            with self.side:
                kinds = {"model": "A model", "loss": "A target loss"}
                toggle = ui.toggle(kinds, value=self.view.asks, on_change=self._kind)
                toggle.props('no-caps spread unelevated dense aria-label="Kind of question"').classes(
                    "w-full"
                ).mark("asks")
                self.panel = ui.element("div")
            with self.panel:
                controls(self.view, self.ask, lambda: self.view)
            with ui.element("section").classes("main").props(_ANSWER):
                self.asked = ui.html("", sanitize=False, tag="p").classes("asked")
                first = "<span class='wait'>The first answer compiles for some seconds…</span>"
                self.headline = (
                    ui.html(first, sanitize=False, tag="h2").classes("headline").props("aria-live=polite")
                )
                self.busy = ui.linear_progress(show_value=False).props('indeterminate aria-label="Answering"')
                self.wrong = ui.label(wrong).classes("wrong").props('role="alert"').mark("wrong")
                self.wrong.set_visibility(bool(wrong))
                self.answer = ui.html("", sanitize=False).classes("answer").mark("answer")
                self.notes = ui.html("", sanitize=False, tag="p").classes("notes")
                with ui.tabs(value=self.view.show, on_change=lambda e: self.ask(show=e.value)).classes(
                    "tabs"
                ) as tabs:
                    tabs.props(
                        'no-caps align=left outside-arrows mobile-arrows inline-label aria-label="Figures"'
                    )
                    for name, title in FIGURES.items():
                        ui.tab(name, title)
                self.drawing = ui.linear_progress(show_value=False).props(
                    'indeterminate aria-label="Drawing"'
                )
                self.drawing.set_visibility(False)
                with ui.element("div").classes("figure"):
                    self.figure = ui.html("", sanitize=False).mark("figure")
                    self.drawer = ui.button("Draw the map", on_click=self._map).props("no-caps unelevated")
                    self.drawer.set_visibility(False)
                self._build_take()

    def _build_take(self) -> None:
        with ui.row().classes("take"):
            takes: tuple[tuple[str, Callable[[], Any]], ...] = (
                ("config.json of the cheapest", lambda: self._take("config.json", exports.config_file)),
                ("Designs, CSV", lambda: self._take("designs.csv", exports.designs_csv)),
                ("Figure, CSV", lambda: self._take_figure("csv")),
                ("Figure, PNG", lambda: self._take_figure("png")),
                ("One-page report", lambda: self._take("report.html", exports.report_file)),
                ("Link to this view", self._link),
            )
            for title, take in takes:
                ui.button(title, on_click=take, color=None).props(
                    "outline no-caps dense padding='4px 10px'"
                ).mark(title)
        for title, name in (("The same on the command line", "line"), ("The same in Python", "python")):
            with ui.element("section").classes("say"):
                with ui.element("div").classes("title"):
                    ui.html(title, tag="h2")
                    ui.button("Copy", on_click=partial(self._copy, name), color=None).props(
                        f'flat no-caps dense size=sm aria-label="Copy: {title}"'
                    )
                setattr(self, name, ui.html("", sanitize=False).mark(name))

    line: ui.html
    python: ui.html

    def _copy(self, name: str) -> None:
        ui.clipboard.write((command_line if name == "line" else python_text)(self.view))
        ui.notify("Copied.", type="positive", timeout=1200)

    async def _link(self) -> None:
        origin = await ui.run_javascript("window.location.origin")
        query = self.view.query
        ui.clipboard.write(f"{origin}/{'?' if query else ''}{query}")
        ui.notify("The link is copied.", type="positive", timeout=1200)

    def _map(self) -> None:
        self.wanted_map = True
        self.drawer.set_visibility(False)
        self.view = dataclasses.replace(self.view)  # asked anew
        self.ask()

    def _kind(self, event: Any) -> None:
        self.view = dataclasses.replace(self.view, asks=event.value, objective="auto")
        self.panel.clear()
        with self.panel:
            controls(self.view, self.ask, lambda: self.view)
        self.ask()


def _question(view: View) -> View:
    """Return the view whatever figure is open."""
    return dataclasses.replace(view, show=View.show)


def _notes(found: Answer) -> str:
    """Return how far the answer is beyond the evidence, and that there are cautions."""
    count = len(found.cautions)
    more = f" {count} caution{'s' if count > 1 else ''} under “How sure”." if count else ""
    return html.escape(found.notes[0] if found.notes else "") + more


def _code(text: str) -> str:
    return f"<pre><code>{html.escape(text)}</code></pre>"


@cache
def _warm() -> Future[Any]:
    """Return the first answer's future: one compilation for all visitors that come while it lasts."""
    return _pool.submit(answer, View())


async def _page(request: Request) -> None:
    if len(Client.instances) > VISITORS:
        ui.label(f"{VISITORS} pages are open already; close one, and load this again.").props('role="alert"')
        return
    try:
        view, wrong = View.of_query(request.url.query), ""
    except InvalidInput as error:
        view, wrong = View(), f"{error} The default question is shown."
    ui.dark_mode(None)
    ui.colors(primary="#1b7a99")
    Page(view, ui.context.client, wrong)


@asynccontextmanager
async def _begun(_: FastAPI) -> AsyncIterator[None]:
    """Ask the first question once the server stands: NiceGUI's start looks at every object there is.

    A tuple that another thread is just making then cannot be finished (SystemError).
    """
    _warm()
    yield


@cache
def application() -> Guard:
    """Return the page as an ASGI application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=_begun)
    ui.add_css(Path(__file__).with_name("style.css").read_text(encoding="utf-8"), shared=True)
    ui.page("/", title="scalesim explore", language="en-US")(_page)
    ui.run_with(
        app, tailwind=False, message_history_length=40, show_welcome_message=False, reconnect_timeout=5.0
    )
    return Guard(app)
