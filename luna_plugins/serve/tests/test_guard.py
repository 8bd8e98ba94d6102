"""Who is let in, what is refused, and that nobody who leaves keeps the engine busy."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import Served, clean_environment

CHAT = "/v1/chat/completions"
BODY = {"model": "papagaio", "messages": [{"role": "user", "content": "Oi"}], "max_tokens": 400, "ignore_eos": True}


@pytest.fixture(scope="module")
def locked(home: Path) -> Iterator[Served]:
    server = Served(home, "--api-key", "chave", "--cors", "https://a.example", "--max-body", "2000", "--max-queue", "7",
                    "--max-batch", "1")  # fmt: skip
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize("path", ["/", "/v1/models", "/health", CHAT])
def test_another_name_is_refused(served: Served, path: str) -> None:
    assert served.get(path, headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:9", "LOCALHOST", "[::1]:80"])
def test_its_own_names_are_not(served: Served, host: str) -> None:
    assert served.get("/health", headers={"Host": host}).status_code == 200


def test_keys(locked: Served) -> None:
    assert locked.get("/v1/models").status_code == 401
    assert locked.get("/v1/models", headers={"Authorization": "Bearer chav"}).status_code == 401
    assert locked.get("/v1/models", headers={"Authorization": "Bearer chave"}).status_code == 200
    assert locked.get("/health").status_code == 200


def test_origins(locked: Served, served: Served) -> None:
    def allowed(server: Served, origin: str) -> str | None:
        headers = {"Origin": origin, "Authorization": "Bearer chave"}
        return server.get("/v1/models", headers=headers).headers.get("access-control-allow-origin")

    assert allowed(locked, "https://a.example") == "https://a.example"
    assert allowed(locked, "https://b.example") is None
    assert allowed(served, "https://a.example") is None
    preflight = httpx.options(locked.url + CHAT, headers={"Origin": "https://a.example"})
    assert preflight.status_code == 204


def test_sizes(locked: Served) -> None:
    headers = {"Authorization": "Bearer chave"}
    assert locked.post(CHAT, content=b"x" * 3000, headers=headers).status_code == 413
    chunked = locked.post(CHAT, content=iter([b"x" * 1500] * 3), headers=headers)
    assert chunked.status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b'{"model": NaN}', b"[" * 1500, b"\xff\xfe"])
def test_bodies_that_are_no_object(served: Served, body: bytes) -> None:
    answer = served.post(CHAT, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_half_characters_do_no_harm(served: Served) -> None:
    body = json.dumps({**BODY, "max_tokens": 2, "messages": [{"role": "user", "content": "\ud800 oi"}]})
    assert served.post(CHAT, content=body.encode()).status_code == 200


def test_a_full_queue_says_when_to_come_back(locked: Served) -> None:
    headers = {"Authorization": "Bearer chave"}
    many = {**BODY, "n": 8}
    with httpx.stream("POST", locked.url + CHAT, json={**many, "stream": True}, headers=headers, timeout=30) as first:
        lines = first.iter_lines()  # kept: to let go of it closes the connection
        next(lines)
        second = locked.post(CHAT, json=many, headers=headers)
        assert second.status_code == 429
        assert second.headers["retry-after"] == "2"
        assert second.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_engine(served: Served, stream: bool) -> None:
    body = json.dumps({**BODY, "n": 4, "stream": stream}).encode()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        served.until("luna_requests_running", 4)
    served.until("luna_requests_running", 0, seconds=1.5)


@pytest.mark.parametrize("leaves", ["reset", "later"])
def test_who_does_not_read_costs_others_nothing(served: Served, leaves: str) -> None:
    """Streams that nobody reads: others are answered meanwhile, and a connection that is reset frees its place."""
    body = json.dumps({**BODY, "n": 8, "stream": True}).encode()
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    silent = [socket.create_connection((host, int(port))) for _ in range(3)]
    for connection in silent:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(head + body)
    for _ in range(3):
        answer = served.post(CHAT, json={**BODY, "max_tokens": 20})
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 20
    for connection in silent:
        if leaves == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    served.until("luna_requests_running", 0, seconds=20)


def test_others_need_a_key(home: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "luna_kernel", "serve", "--model", "papagaio", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, env=clean_environment(home), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "LUNA_API_KEY" in done.stderr


def test_a_port_that_is_taken(home: Path, served: Served) -> None:
    import subprocess
    import sys

    port = served.url.rpartition(":")[2]
    command = [
        sys.executable,
        "-m",
        "luna_kernel",
        "serve",
        "--model",
        "papagaio",
        "--plugins",
        "serve",
        "--port",
        port,
    ]
    done = subprocess.run(command, env=clean_environment(home), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert port in done.stderr


def test_openapi_names_every_field(served: Served) -> None:
    described = served.get("/openapi.json").json()
    fields = described["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "temperature", "stream", "luna"} <= set(fields)
    for path, methods in described["paths"].items():
        method, operation = next(iter(methods.items()))
        answer = served.get(path) if method == "get" else served.post(path, json={})
        assert str(answer.status_code) in operation["responses"], path


def test_feedback_tells_plugins_the_answer_that_was_judged(home: Path, tmp_path: Path) -> None:
    (tmp_path / "listener.py").write_text(
        "from pathlib import Path\nfrom luna_kernel import hookimpl\nLUNA_API = 1\n\n@hookimpl\n"
        "def luna_chat_feedback(session, turn, feedback):\n"
        "    Path(__file__).with_suffix('.txt').write_text(f'{feedback[\"rating\"]}|{turn.query}|{turn.answer}')\n",
        encoding="utf-8",
    )
    server = Served(home, plugins=f"serve,{tmp_path / 'listener.py'}")
    try:
        answer = server.post(CHAT, json={**BODY, "max_tokens": 9}).json()
        assert server.post("/luna/feedback", json={"id": answer["id"], "rating": "bad"}).status_code == 200
    finally:
        server.stop()
    told = (tmp_path / "listener.txt").read_text(encoding="utf-8")
    assert told == f"bad|Oi|{answer['choices'][0]['message']['content']}"


def test_judgements_are_kept_by_conversation_and_a_fault_is_the_servers(home: Path) -> None:
    """Turns that begin alike are one conversation, unless the request names another."""
    pytest.importorskip("luna_plugin_feedback")
    first = [{"role": "user", "content": "Oi"}, {"role": "assistant", "content": "Olá."}]
    bodies = [
        {"messages": first[:1]},
        {"messages": [*first, {"role": "user", "content": "Quem é você?"}]},
        {"messages": [{"role": "user", "content": "Outra coisa"}]},
        {"messages": first[:1], "luna": {"session": "minha"}},
    ]
    server = Served(home, plugins="serve,feedback")
    try:
        ids = [server.post(CHAT, json={**BODY, **body, "max_tokens": 2}).json()["id"] for body in bodies]
        for name in ids:
            assert server.post("/luna/feedback", json={"id": name, "rating": "good"}).status_code == 200
        (file,) = home.rglob("feedback.db")
        with contextlib.closing(sqlite3.connect(file)) as database:
            sessions = [row[0] for row in database.execute("SELECT session_id FROM entries ORDER BY created")]
        assert sessions[0] == sessions[1]
        assert sessions[3] == "minha"
        assert len(set(sessions)) == 3
        for kept in file.parent.glob("feedback.db*"):
            kept.unlink()
        file.mkdir()
        answer = server.post("/luna/feedback", json={"id": ids[0], "rating": "bad"})
        assert answer.status_code == 500
        assert "feedback.db" in answer.json()["error"]["message"]
    finally:
        server.stop()


def test_feedback_on_an_answer(served: Served) -> None:
    answer = served.post(CHAT, json={**BODY, "max_tokens": 2}).json()
    assert served.post("/luna/feedback", json={"id": answer["id"], "rating": "good"}).status_code == 200
    assert served.post("/luna/feedback", json={"id": "chatcmpl-x", "rating": "good"}).status_code == 404
    assert (
        served.post("/luna/feedback", json={"id": answer["id"], "rating": "so-so"}).json()["error"]["param"] == "rating"
    )
