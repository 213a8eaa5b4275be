"""The server: on loopback alone, for a browser or for a notebook."""

from __future__ import annotations

import contextlib
import html
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from scalesim.app.view import View
from scalesim.errors import InvalidInput

if TYPE_CHECKING:
    import uvicorn

    from scalesim.design import Design
    from scalesim.redesigns import Redesign

__all__ = ["Explorer", "explore", "serve", "view_of"]

HOST = "127.0.0.1"
_running: dict[str, tuple[uvicorn.Server, int]] = {}
_lock = threading.Lock()


class Explorer:
    """A page that is being served: its address, and itself in a notebook.

    Attributes:
        url: where it is, on this machine.
        height: pixels in a notebook.
    """

    def __init__(self, url: str, height: int = 900) -> None:
        self.url, self.height = url, height

    def __repr__(self) -> str:
        return f"Explorer: {self.url}"

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{html.escape(self.url)}" title="scalesim explore" width="100%" '
            f'height="{self.height}" style="border:1px solid #ccc;border-radius:8px"></iframe>'
        )


def explore(
    about: View | Redesign | Design | str | None = None, *, port: int = 0, height: int = 900
) -> Explorer:
    """Serve the page of `scalesim explore` beside a running program, and return it for a notebook to show.

    The page runs in this process, on loopback; it ends with it. Every call opens the same server at another
    view.

    Args:
        about: what to show first: a redesign, a design, a known model's name, or a view of your own.
        port: 0 takes a free one.
        height: pixels in a notebook.

    Raises:
        InvalidInput: the page's library is not installed, or the port is not free.

    >>> explore("llama-3.1-8b")  # doctest: +SKIP
    Explorer: http://127.0.0.1:43210/
    """
    with _lock:
        if "server" not in _running:
            server, found = _server(port)
            threading.Thread(target=server.run, name="scalesim explore", daemon=True).start()
            end = time.monotonic() + 30
            while not server.started:
                if time.monotonic() > end:
                    raise InvalidInput(f"the page could not be served on port {found} within 30 seconds.")
                time.sleep(0.02)
            _running["server"] = server, found
    return Explorer(address(_running["server"][1], view_of(about)), height)


def serve(view: View, *, port: int = 0, opened: bool = True) -> None:
    """Serve the page until interrupted, and open it in a browser.

    Raises:
        InvalidInput: the page's library is not installed, or the port is not free.
    """
    server, port = _server(port)
    sys.setswitchinterval(0.001)  # the page's loop is not to wait behind an answer that is being computed
    url = address(port, view)
    print(f"scalesim explore: {url} (Ctrl-C ends it)", flush=True)
    if opened:
        import webbrowser

        threading.Timer(0.8, webbrowser.open, (url,)).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run()


def address(port: int, view: View) -> str:
    """Return a view's address on this machine.

    >>> address(8080, View(context="64K"))
    'http://127.0.0.1:8080/?context=64K'
    """
    query = view.query
    return f"http://{HOST}:{port}/{'?' if query else ''}{query}"


def _server(port: int) -> tuple[Any, int]:
    """Return a server that has its port, and the port."""
    try:
        import uvicorn

        from scalesim.app.page import application
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("nicegui", "uvicorn", "fastapi"):
            raise
        raise InvalidInput(
            f"the page needs {error.name}, which is not installed; pip install 'scalesim-jax[app]' would do."
        ) from None
    if not 0 <= port <= 65535:
        raise InvalidInput(f"port must be between 0 (any that is free) and 65535, but is {port}.")
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
        taken.listen(128)  # who comes before the server is ready waits, and is not refused
    except OSError as error:
        taken.close()
        raise InvalidInput(f"port {port} cannot be had: {error.strerror}. 0 takes a free one.") from None
    found = taken.getsockname()[1]
    config = uvicorn.Config(application(), fd=None, log_level="warning", ws_max_size=1_000_000)
    server = uvicorn.Server(config)
    run = server.run
    server.run = lambda: run(sockets=[taken])
    return server, found


def view_of(about: View | Redesign | Design | str | None) -> View:
    """Return the view that shows a result's question.

    Raises:
        InvalidInput: the page cannot ask that question.

    >>> view_of("qwen3-8b").model
    'qwen3-8b'
    """
    if about is None:
        return View()
    if isinstance(about, View):
        return about.checked()
    if isinstance(about, str):
        return View(model=about).checked()
    from scalesim.redesigns import Redesign

    if isinstance(about, Redesign):
        return _of_redesign(about)
    job = about.query.workload
    names = {"Z": "z", "Z (GiB, causal)": "z-figure1", "FLOPs": "flops", "memory": "memory"}
    return View(
        asks="loss", target_loss=float(about.target_loss), context=_context(job.context_length),
        batch_size=float(job.batch_size), kv_bits=float(job.kv_bits),
        weight_bits=_bits(job.weight_bits, 16.0),
        objective=names.get(about.query.objective.label, "auto"), generated=_generated(job),
    ).checked()  # fmt: skip


def _of_redesign(about: Redesign) -> View:
    import json

    import scalesim as ss
    from scalesim.app.view import read_config_text

    asked, _ = about.asked
    if not isinstance(asked.objective, str):
        raise InvalidInput("the page minimises named costs, and this redesign a measure of its own.")
    short = about.model.lower().split("/")[-1]
    known = next((n for n, m in ss.known_models().items() if m.name == about.model or n == short), None)
    if known is not None and ss.known_models()[known].shape != asked.shape:
        known = None
    stored = ss.known_models()[known].weight_bits if known else 16.0
    config = "" if known else read_config_text(json.dumps(ss.to_huggingface(asked.shape)))
    job, mixed = asked.workload, asked.contexts
    context = _context(job.context_length)
    if mixed is not None:
        context = " ".join(
            f"{_context(n)}:{w:.6g}" for n, w in zip(mixed.lengths, mixed.weights, strict=True)
        )
    traffic = asked.traffic
    return View(
        model=known or View.model, config=config, tokens=_count(float(asked.plan.tokens(asked.shape))),
        context=context, batch_size=float(job.batch_size), generated=_generated(job),
        hardware=next(n for n, h in ss.hardware_catalogue().items() if h.name == asked.hardware.name),
        weight_bits=_bits(job.weight_bits, stored), kv_bits=float(job.kv_bits), compute=job.compute,
        traffic="" if traffic is None else _count(float(traffic.prompt_tokens + traffic.generated_tokens)),
        objective=asked.objective, same=asked.spend, loss=f"{100 * asked.loss:+.6g}%",
        max_tpot=asked.max_tpot, max_ttft=asked.max_ttft, max_devices=asked.max_devices,
        min_kv_heads=asked.min_kv_heads if asked.min_kv_heads > 1 else None, mixers=" ".join(asked.mixers),
    ).checked()  # fmt: skip


def _context(value: Any) -> str:
    from scalesim.units import format_context, parse_context

    text = format_context(float(value))
    with contextlib.suppress(InvalidInput):
        if parse_context(text) == float(value):
            return text
    return str(round(float(value)))


def _count(value: float) -> str:
    from scalesim.units import format_count, parse_count

    text = format_count(value, 4)
    return text if parse_count(text) == value else f"{value:.12g}"


def _generated(job: Any) -> str:
    return "" if job.generated_length is None else _context(job.generated_length)


def _bits(value: Any, stored: float) -> float | None:
    return None if abs(float(value) - stored) < 1e-9 else float(value)
