"""Processes meet, or the one that does not come is named; one that ends unannounced is known at once."""

import socket
import threading
import time

import pytest

from scalesim.errors import InvalidInput, Unreachable
from scalesim.meeting import meet


def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def met(where, count, seconds=5.0):
    """Let processes meet, each in a thread; return what each got."""
    found = {}

    def come(i):
        try:
            found[i] = meet(where, count, i, seconds)
        except (InvalidInput, Unreachable) as error:
            found[i] = error

    threads = [threading.Thread(target=come, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_meet_and_part():
    found, gone = met(address(), 3), []
    for meeting in found.values():
        meeting.watch(gone.append)
    for i in (2, 1, 0):
        found[i].leave()
    time.sleep(0.2)
    assert not gone


def test_one_that_ends_is_named():
    found, gone, known = met(address(), 2), [], threading.Event()
    found[0].watch(lambda other: (gone.append(other), known.set()))
    for connection in found[1]._connections.values():
        connection.close()  # as the system does for a process that was killed
    assert known.wait(5)
    assert gone == [1]
    found[0].leave()


def test_one_that_does_not_come_is_named():
    with pytest.raises(Unreachable, match=r"processes 1, 2 of 3 did not join at 127.0.0.1:\d+ within 0 s"):
        meet(address(), 3, 0, 0.3)
    with pytest.raises(Unreachable, match=r"process 1 of 2 cannot join at .*: process 0 is not there"):
        meet(address(), 2, 1, 0.3)


@pytest.mark.parametrize(
    "where", ["", "localhost", "localhost:", "localhost:abc", ":5", "localhost:-1", "h:99999"]
)
def test_no_address(where):
    with pytest.raises(InvalidInput, match="must be HOST:PORT"):
        meet(where, 2, 0)


def test_an_address_that_is_taken():
    where = address()
    with socket.socket() as taken:
        taken.bind((where.split(":")[0], int(where.split(":")[1])))
        taken.listen()
        with pytest.raises(InvalidInput, match="cannot be listened at"):
            meet(where, 2, 0, 0.3)
