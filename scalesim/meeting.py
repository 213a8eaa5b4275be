"""Where processes meet before they compute together: who is missing is known, and who has gone is named."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from scalesim.errors import InvalidInput, Unreachable

__all__ = ["Meeting", "meet"]

_WORD = struct.Struct("<8sII")
_MARK = b"scalesim"
_BYE = 0xFFFFFFFF


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and re.fullmatch(r"\d{1,5}", port) and 0 < int(port) < 65536):
        raise InvalidInput(
            f"coordinator must be HOST:PORT, where process 0 listens (10.0.0.1:9876), but is {coordinator!r}."
        )
    return host.strip("[]"), int(port)


def _kept_alive(connection: socket.socket) -> None:
    """Notice within 20 s that a machine on the other end is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _received(connection: socket.socket) -> tuple[bytes, int, int] | None:
    data = b""
    while len(data) < _WORD.size:
        part = connection.recv(_WORD.size - len(data))
        if not part:
            return None
        data += part
    return _WORD.unpack(data)


class Meeting:
    """Processes that have met: one connection from each to process 0, which a death closes."""

    def __init__(self, index: int, connections: dict[int, socket.socket]) -> None:
        self.index, self._connections, self._over = index, connections, False

    def watch(self, gone: Callable[[int], None]) -> None:
        """Call `gone` with the index of a process that ends without having said so."""
        threading.Thread(target=self._watch, args=(gone,), daemon=True, name="meeting").start()

    def _watch(self, gone: Callable[[int], None]) -> None:
        open_ = dict(self._connections)
        while open_ and not self._over:
            try:
                ready, _, _ = select.select(list(open_.values()), [], [], 1.0)
            except (OSError, ValueError):
                return
            for other in [i for i, c in open_.items() if c in ready]:
                try:
                    word = _received(open_[other])
                except OSError:
                    word = None
                if word is None and not self._over:
                    gone(other)
                del open_[other]

    def leave(self) -> None:
        """Say that this process ends as it should."""
        self._over = True
        for connection in self._connections.values():
            try:
                connection.sendall(_WORD.pack(_MARK, self.index, _BYE))
                connection.close()
            except OSError:
                pass


def meet(coordinator: str, count: int, index: int, seconds: float = 25.0) -> Meeting:
    """Wait until all processes have come to the address at which process 0 listens.

    Raises:
        InvalidInput: the address is no HOST:PORT, or cannot be listened at; or two processes have one number
            or differ in how many they are.
        Unreachable: a process did not come in time; the message says which.
    """
    host, port = _address(coordinator)
    until = time.monotonic() + seconds
    if index:
        return Meeting(index, {0: _come(host, port, count, index, until, seconds)})
    return Meeting(0, _receive(host, port, count, until, seconds))


def _come(host: str, port: int, count: int, index: int, until: float, seconds: float) -> socket.socket:
    name = f"process {index} of {count} cannot join at {host}:{port}"
    reason = "nobody listens there"
    while (left := until - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((host, port), timeout=max(left, 0.1))
        except socket.gaierror as error:
            raise InvalidInput(f"coordinator {host!r} is not a known host: {error.strerror}.") from None
        except OSError as error:
            reason = error.strerror or "nobody answers"
            time.sleep(0.2)
            continue
        try:
            _kept_alive(connection)
            connection.sendall(_WORD.pack(_MARK, index, count))
            connection.settimeout(max(until - time.monotonic(), 1.0) + 2.0)
            word = _received(connection)
        except OSError:
            word = None
            reason = "the other processes did not come"
        if word is not None and word[0] == _MARK and word[1] == 1:
            connection.settimeout(None)
            return connection
        connection.close()
        if word is not None and word[0] == _MARK:
            raise InvalidInput(
                f"{name}: it is refused, as another process has that number, or as process 0 counts "
                f"{word[2]} processes."
            )
        time.sleep(0.2)
    raise Unreachable(f"{name} within {seconds:.0f} s: process 0 is not there ({reason}).")


def _receive(host: str, port: int, count: int, until: float, seconds: float) -> dict[int, socket.socket]:
    came: dict[int, socket.socket] = {}
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidInput(f"coordinator {host!r} is not a known host: {error.strerror}.") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(count + 8)
        except OSError as error:
            raise InvalidInput(
                f"coordinator {host}:{port} cannot be listened at: {error.strerror}."
            ) from None
        while len(came) < count - 1:
            left = until - time.monotonic()
            if left <= 0:
                missing = [str(i) for i in range(1, count) if i not in came]
                for connection in came.values():
                    connection.close()
                raise Unreachable(
                    f"process{'es' if len(missing) > 1 else ''} {', '.join(missing)} of {count} did not join "
                    f"at {host}:{port} within {seconds:.0f} s."
                )
            listener.settimeout(left)
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            try:
                connection.settimeout(5.0)
                word = _received(connection)
                connection.settimeout(None)
                if word is None or word[0] != _MARK:
                    raise OSError
                other, theirs = word[1], word[2]
                if theirs != count or not 0 < other < count or other in came:
                    connection.sendall(_WORD.pack(_MARK, 0, count))
                    raise OSError
            except OSError:
                connection.close()
                continue
            _kept_alive(connection)
            came[other] = connection
    for connection in came.values():
        connection.sendall(_WORD.pack(_MARK, 1, os.getpid() & 0x7FFFFFFF))
    return came
