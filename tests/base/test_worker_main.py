"""The worker's own side, in this process: what it answers over its socket, and when it ends."""

from __future__ import annotations

import json
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from luna_kernel.base import worker_main

FUNCTIONS = '''
import sys
from luna_kernel.base.errors import IntegrityError

class Own(IntegrityError):
    """A parser's own kind of one of Luna's errors."""

class Rude(Exception):
    def __str__(self): raise RuntimeError

def echo(*values): return list(values)
def hungry(): raise MemoryError
def leave(): sys.exit(3)
def known(): raise Own("a text", hint="do this")
def fails(): raise KeyError("chave")
def rude(): raise Rude
def unfit(): return {1, 2}
def long(): raise ValueError("x" * 50_000)
'''


class Connection:
    """The parent's end of the socket, with a server at the other end in a thread."""

    def __init__(self, *functions: str) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(20)
        allowed = frozenset(f"served_parser:{name}" for name in functions)
        self.server = threading.Thread(target=self._serve, args=(theirs, allowed))
        self.server.start()

    @staticmethod
    def _serve(theirs: socket.socket, allowed: frozenset[str]) -> None:
        with theirs:
            worker_main.serve(theirs, allowed)

    def receive(self) -> Any:
        header = worker_main.read(self.ours, 8)
        assert header is not None
        frame = worker_main.read(self.ours, struct.unpack(">Q", header)[0])
        assert frame is not None
        return json.loads(frame.decode("utf-8", "surrogatepass"))

    def ask(self, name: str, *arguments: object) -> Any:
        request = {"function": f"served_parser:{name}", "arguments": arguments, "seconds": 1e6}
        worker_main.send(self.ours, worker_main.encode(request))
        return self.receive()


@pytest.fixture
def connect(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Connection]]:
    (tmp_path / "served_parser.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_CPU)
    made: list[Connection] = []

    def make(*functions: str) -> Connection:
        made.append(Connection(*functions))
        assert made[-1].receive() == {"ready": True}
        return made[-1]

    yield make
    resource.setrlimit(resource.RLIMIT_CPU, before)
    for connection in made:
        connection.ours.close()
        connection.server.join(20)
        assert not connection.server.is_alive(), "it ends when its socket closes"


def test_results_and_errors_are_answers(connect) -> None:
    parser = connect("echo", "hungry", "leave", "known", "fails", "rude", "unfit", "long")
    assert parser.ask("echo", 1, "ção", "\ud800") == {"result": [1, "ção", "\ud800"]}
    assert parser.ask("hungry") == {"memory": True}
    left = parser.ask("leave")
    assert left["exit"] == "3"
    assert "in leave" in left["traceback"]
    known = parser.ask("known")
    assert (known["luna"], known["text"], known["hint"]) == ("IntegrityError", "a text", "do this")
    failed = parser.ask("fails")
    assert (failed["kind"], failed["text"]) == ("KeyError", "'chave'")
    assert parser.ask("rude")["text"] == "Rude"
    assert "set" in parser.ask("unfit")["unfit"]
    assert len(parser.ask("long")["text"]) == 10_000


def test_a_function_that_is_not_allowed_is_refused_here_too(connect) -> None:
    """The parent refuses it first; a request that came some other way finds the same answer."""
    answer = connect("echo").ask("leave")
    assert (answer["kind"], answer["text"]) == ("PermissionError", "served_parser:leave")


def test_large_answers_come_whole(connect) -> None:
    text = "ação" * 100_000
    assert connect("echo").ask("echo", text) == {"result": [text]}


def test_half_a_request_ends_it(connect) -> None:
    parser = connect("echo")
    parser.ours.sendall(struct.pack(">Q", 100) + b"{")
    parser.ours.shutdown(socket.SHUT_WR)
    parser.server.join(20)
    assert not parser.server.is_alive()


def test_each_request_bounds_the_time_of_the_process(connect) -> None:
    connect("echo").ask("echo")
    soft = resource.getrlimit(resource.RLIMIT_CPU)[0]
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert 0 <= soft - 1e6 - used.ru_utime - used.ru_stime < 3
