"""A real `luna serve` over a small model, and a server that does as it is told, for what the real one never does."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that Luna keeps goes below this folder; messages are Portuguese; no proxy, no key of the person's."""
    for name in list(os.environ):
        if name.startswith(("LUNA_", "OPENAI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    return tmp_path / "home"


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a child."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LUNA_") and not k.lower().endswith("_proxy")}
    return {**kept, "LUNA_HOME": str(home), "LUNA_LANG": "en", "OMP_NUM_THREADS": "1", **more}


def luna(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a verb."""
    command = [sys.executable, "-m", "luna_kernel", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=clean_environment(home, **more))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The `base_url` of a real server; its untrained model `ruido` talks nonsense, but the same for the same seed."""
    pytest.importorskip("luna_plugin_serve")
    home = tmp_path_factory.mktemp("server")
    data = home / "data.jsonl"
    data.write_text('{"prompt": "Quem é você?", "response": "Eu sou a Luna."}\n' * 8, encoding="utf-8")
    options = ["create", "--name", "ruido", "--preset", "mini", "--plugins", "none", "--train-data", str(data)]
    done = luna(home, *options)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "luna_kernel", "serve", "--model", "ruido", "--plugins", "serve", "--port", "0"]
    process = subprocess.Popen(
        command, env=clean_environment(home), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            yield f"{found[0]}/v1"
            break
    else:
        raise AssertionError(f"the server did not start: {said}")
    process.send_signal(signal.SIGINT)
    process.wait(20)
    process.stderr.close()


class Scripted:
    """A server that gives each request for an answer the next of its replies, byte by byte as they are.

    A reply is bytes, or a list of bytes and of seconds to wait between them. `None` in it: wait for the client to go.
    """

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.models: bytes = reply(404, b"")
        self.gone = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        if head.startswith(b"GET"):
            connection.sendall(self.models)
            return
        size = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
        while len(body) < size:
            body += connection.recv(65536)
        self.headers.append(head.decode())
        self.requests.append(json.loads(body))
        said = self.replies.pop(0)
        try:
            for part in [said] if isinstance(said, bytes) else said:
                if part is None:
                    while connection.recv(1024):
                        pass
                    self.gone.set()
                elif isinstance(part, bytes):
                    connection.sendall(part)
                else:
                    time.sleep(part)
        except ConnectionError:
            self.gone.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def reply(status: int, body: bytes | dict[str, Any], *headers: str) -> bytes:
    """A whole response."""
    if isinstance(body, dict):
        body, headers = json.dumps(body).encode(), (*headers, "Content-Type: application/json")
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(**fields: Any) -> bytes:
    """One event: `content="…"` and the like go into the delta, `finish_reason` and `usage` where they belong."""
    usage, reason = fields.pop("usage", None), fields.pop("finish_reason", None)
    data: dict[str, Any] = {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}
    if usage is not None:
        data = {"choices": [], "usage": usage}
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


@pytest.fixture
def make() -> Callable[..., Any]:
    """A generator over an address."""

    def open_it(url: str, model: str = "luna", **config: Any) -> Any:
        from luna_plugin_openai.config import OpenAIConfig
        from luna_plugin_openai.generator import OpenAIGenerator

        from luna_kernel.plugins import load_plugins

        return OpenAIGenerator.open(model, plugins=load_plugins("none"), config=OpenAIConfig(base_url=url, **config))

    return open_it
