"""The server answers this machine alone, and takes no large bodies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import scalesim as ss
from scalesim.app.guard import MOST_BYTES, Guard
from scalesim.app.start import _server
from scalesim.cli import main


async def _app(scope: Any, receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


def asked(headers: dict[str, str], bodies: tuple[bytes, ...] = (b"",), kind: str = "http") -> list[Any]:
    """Return what the guarded application sends."""
    sent: list[Any] = []
    left = [
        {"type": "http.request", "body": b, "more_body": i + 1 < len(bodies)} for i, b in enumerate(bodies)
    ]

    async def receive() -> Any:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(Guard(_app)(scope, receive, send))
    return sent


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:9"])
def test_this_machine_is_answered(host: str) -> None:
    sent = asked({"host": host, "origin": f"http://{host}"})
    assert sent[0]["status"] == 200
    assert (b"x-content-type-options", b"nosniff") in sent[0]["headers"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:80"},
        {},
        {"host": "127.0.0.1:8000", "origin": "http://evil.example"},
        {"host": "127.0.0.1:8000", "origin": "null"},
        {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9000"},
    ],
)
def test_others_are_not(headers: dict[str, str]) -> None:
    assert asked(headers)[0]["status"] == 403
    assert asked(headers, kind="websocket")[-1] == {"type": "websocket.close", "code": 1008}


def test_large_bodies_are_refused_announced_or_not() -> None:
    host = {"host": "127.0.0.1"}
    assert asked({**host, "content-length": str(MOST_BYTES + 1)})[0]["status"] == 413
    assert asked({**host, "content-length": "many"})[0]["status"] == 413
    assert asked(host, (b"x" * MOST_BYTES, b"x", b"x")) == []


def test_a_port_out_of_range_or_an_extra_that_is_missing_is_said() -> None:
    with pytest.raises(ss.InvalidInput, match=r"port must be|pip install 'scalesim-jax\[app\]'"):
        _server(70_000)


def test_a_wrong_view_ends_the_command_with_its_sentence(capsys) -> None:
    assert main(["explore", "--link", "http://127.0.0.1:1/?context=8Q"]) == 2
    assert "is not a size" in capsys.readouterr().err
    assert main(["explore", "lama-3"]) == 2
