"""What endpoints do, well and badly, over a real connection."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from luna_plugin_openai.config import OpenAIConfig
from luna_plugin_openai.failures import Endpoint
from luna_plugin_openai.generator import OpenAIGenerator
from luna_plugin_openai.protocol import EventReader, MalformedError, read_piece
from pydantic import ValidationError

from luna_kernel.base.errors import ConfigError, LunaError, UsageError
from luna_kernel.chat.session import Session
from luna_kernel.contracts.chat import Notice, Sampling, Text, Thinking, Turn
from luna_kernel.plugins import load_plugins

from .conftest import DONE, STREAM, clean_environment, event, luna, reply

KEY = "sk-muito-secreta-123"


def ask(generator, turn=None, stop=lambda: False):
    return list(generator.generate(turn or Turn("Oi"), stop))


def text(events, kind=Text):
    return "".join(item.text for item in events if isinstance(item, kind))


# --- an answer -------------------------------------------------------------------------------------------------------


def test_answer_reasons_and_usage(scripted, make):
    usage = {"prompt_tokens": 12, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}
    scripted.replies = [
        STREAM + event(role="assistant", content="") + event(content="Olá") + event(content="!")
        + event(finish_reason="length") + event(usage=usage) + DONE
    ]  # fmt: skip
    turn = Turn("Oi")
    assert text(ask(make(scripted.url), turn)) == "Olá!"
    assert turn.stop_reason == "length"
    assert turn.usage == {"prompt_tokens": 12, "cached_tokens": 9, "completion_tokens": 2}


def test_thinking_comes_apart(scripted, make):
    for name in ("reasoning_content", "reasoning"):
        scripted.replies = [STREAM + event(**{name: "Hm. "}) + event(content="Sim.", finish_reason="stop") + DONE]
        events = ask(make(scripted.url), Turn("Oi", think=True))
        assert events == [Thinking("Hm. "), Text("Sim.")]
    scripted.replies = [STREAM + event(content="<think>Hm.</th") + event(content="ink>\n\nSim.") + DONE]
    assert ask(make(scripted.url)) == [Thinking("Hm."), Text("Sim.")]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_events_may_be_cut_anywhere(size):
    said = "a\u2028b\x85c ção 🌙"
    stream = b": ping\r\n\r\n" + event(content=said).replace(b"\n", b"\r\n") + b"event: x\ndata: [DONE]\n\n"
    reader = EventReader()
    found = [item for at in range(0, len(stream), size) for item in reader.push(stream[at : at + size])]
    found += reader.finish()
    assert read_piece(found[0]).text == said
    assert found[1:] == [b"[DONE]"]


def test_an_event_without_an_end_is_refused():
    reader = EventReader()
    assert list(reader.push(b"data: " + b"x" * 1_000_000)) == []
    with pytest.raises(MalformedError):
        list(reader.push(b"x" * 4_000_000))


def test_half_a_character_is_not_passed_on():
    assert read_piece(b'{"choices": [{"delta": {"content": "a\\ud83d"}}]}').text == "a?"


def test_a_server_that_does_not_stream(scripted, make):
    message = {"role": "assistant", "content": "Tudo de uma vez."}
    scripted.replies = [reply(200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}})]
    turn = Turn("Oi")
    assert text(ask(make(scripted.url), turn)) == "Tudo de uma vez."
    assert turn.stop_reason == "end"
    assert turn.notes["usage"] == {"estimated": True}


def test_what_is_sent(scripted, make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    scripted.replies = [STREAM + event(content="x") + DONE] * 2
    generator = make(
        scripted.url, model="m", sampling_fields=("min_p",), body={"service_tier": "flex"}, think={"effort": "low"},
        no_think={"effort": "none"}, max_tokens_field="max_completion_tokens",
    )  # fmt: skip
    sampling = Sampling(temperature=0.5, seed=7, stop=("FIM",), max_tokens=10, top_k=3)
    events = ask(generator, Turn("Oi", system=["Seja breve."], sampling=sampling, think=True))
    assert text(events, Notice).count("top_k") == 1
    assert text(ask(generator, Turn("Oi", sampling=sampling)), Notice) == ""
    first, second = scripted.requests
    assert first == {
        "model": "m", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "top_p": 1.0,
        "max_completion_tokens": 10 + 1024, "stop": ["FIM"], "seed": 7, "min_p": 0.05, "service_tier": "flex",
        "effort": "low",
        "messages": [{"role": "system", "content": "Seja breve."}, {"role": "user", "content": "Oi"}],
    }  # fmt: skip
    assert (second["effort"], second["max_completion_tokens"]) == ("none", 10)
    assert f"authorization: bearer {KEY}" in scripted.headers[0].lower()


def test_nearest_model_and_context_length_from_the_list(scripted, make):
    models = [{"id": "tucano-2b4", "max_model_len": 4096}, {"id": "outro", "meta": {"n_ctx_train": 2048}}]
    scripted.models = reply(200, {"data": models})
    assert make(scripted.url, model="tucano-2b4").context_length == 4096
    assert make(scripted.url, model="outro").context_length == 2048
    with pytest.raises(UsageError) as caught:
        make(scripted.url, model="tucano-2b")
    assert "tucano-2b4" in caught.value.hint


# --- trying again ----------------------------------------------------------------------------------------------------


def test_busy_and_failing_endpoints_are_asked_again(scripted, make):
    scripted.replies = [
        reply(429, b"", "Retry-After: 0"), reply(503, b"", "Retry-After: 0"), STREAM + event(content="Sim.") + DONE,
    ]  # fmt: skip
    assert text(ask(make(scripted.url))) == "Sim."
    assert len(scripted.requests) == 3


def test_in_the_end_it_gives_up(scripted, make):
    scripted.replies = [reply(429, {"error": {"message": "devagar"}}, "Retry-After: 0")] * 2
    with pytest.raises(LunaError, match="devagar"):
        ask(make(scripted.url, retries=1))
    assert len(scripted.requests) == 2


def test_a_long_wait_is_said_and_can_be_stopped(scripted, make):
    scripted.replies = [reply(429, b"", "Retry-After: 20")]
    turn, heard = Turn("Oi"), []
    begun = time.monotonic()
    for item in make(scripted.url).generate(turn, lambda: bool(heard)):
        heard.append(item)  # noqa: PERF402  `stop` looks at it meanwhile
    assert isinstance(heard[0], Notice)
    assert "20" in heard[0].text
    assert turn.stop_reason == "interrupted"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "end", [b"", event(content="").removesuffix(b"\n\n")[:20], b'data: {"error": {"message": "caiu"}}\n\n']
)
def test_what_had_arrived_before_a_cut_is_kept(scripted, make, end):
    scripted.replies = [STREAM + event(content="Era uma ") + event(content="vez") + end]
    session = Session(load_plugins("none"), make(scripted.url))
    with pytest.raises(LunaError):
        list(session.ask("Conte."))
    (turn,) = session.turns
    assert (turn.answer, turn.stop_reason) == ("Era uma vez", "interrupted")
    assert len(scripted.requests) == 1, "asked again after the first token"
    session.close()


def test_stopping_closes_the_connection_at_once(scripted, make):
    scripted.replies = [[STREAM + event(content="Era"), None]]
    turn, heard = Turn("Oi"), []
    begun = time.monotonic()
    for item in make(scripted.url).generate(turn, lambda: bool(heard)):
        heard.append(item)  # noqa: PERF402  `stop` looks at it meanwhile
    assert time.monotonic() - begun < 3
    assert scripted.gone.wait(3)
    assert turn.stop_reason == "interrupted"
    assert text(heard) == "Era"


def test_ctrl_c_ends_a_silent_answer(scripted, tmp_path):
    scripted.replies = [[STREAM + event(content="Era uma vez"), None]]
    command = [sys.executable, "-m", "luna_kernel", "run", "--plugins", "openai", "--generator", "openai"]
    process = subprocess.Popen(
        [*command, "--model", "m", "--query", "Conte."], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=clean_environment(tmp_path, OPENAI_BASE_URL=scripted.url, PYTHONUNBUFFERED="1"),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(11) == "Era uma vez"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert scripted.gone.wait(3)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "match"),
    [
        (reply(401, {"error": {"message": f"Incorrect API key: {KEY}"}}), "recusa a chave de OPENAI_API_KEY"),
        (reply(404, {"error": {"message": "no model", "code": "model_not_found"}}), "não tem o modelo “m”"),
        (reply(404, {"error": "model 'm' not found"}), "não tem o modelo “m”"),
        (reply(400, {"error": {"message": "x", "code": "context_length_exceeded"}}), "longa demais"),
        (reply(400, {"error": {"message": "This model's maximum context length is 9"}}), "longa demais"),
        (reply(400, {"detail": "top_k: unknown field"}), "recusa o pedido.*top_k"),
        (reply(404, b"<html>nada</html>"), "Não há servidor"),
        (reply(301, b"", "Location: https://outro.example/"), "outro.example"),
        (reply(500, {"error": {"message": f"caiu\x1b[31m {KEY}"}}), "falhou"),
        (reply(200, b"<html>bem-vindo</html>"), "foi cortada"),
        (reply(200, b'data: {"choices": 3}\n\n', "Content-Type: text/event-stream"), "não fala o protocolo"),
        (reply(200, b"data: {nada\n\n", "Content-Type: text/event-stream"), "não fala o protocolo"),
        (reply(200, b"[1]", "Content-Type: application/json"), "não fala o protocolo"),
        (b"nada de HTTP\r\n\r\n", "falhou"),
        ([1.5], "não respondeu a tempo"),
    ],
    ids=range(15),
)
def test_failures_are_explained_without_the_key(scripted, make, monkeypatch, said, match):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    scripted.replies = [said]
    generator = make(scripted.url, model="m", retries=0, timeout=0.5)
    with pytest.raises(LunaError, match=match) as caught:
        ask(generator)
    assert KEY not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert caught.value.hint
    assert KEY not in repr(vars(generator))


def test_nobody_listens(make, scripted, tmp_path):
    url = "http://127.0.0.1:9/v1"
    with pytest.raises(UsageError, match="Sem conexão"):
        make(url)
    options = ["run", "--plugins", "openai", "--generator", "openai", "--model", "m", "--query", "Oi", "--json"]
    done = luna(tmp_path, *options, OPENAI_BASE_URL=url)
    assert done.returncode == 2
    assert "No connection to" in json.loads(done.stdout)["error"]["message"]
    assert "Traceback" not in done.stderr


def test_a_key_that_is_missing_is_not_called_wrong(scripted, make):
    scripted.models = reply(401, {"error": {"message": "no"}})
    with pytest.raises(UsageError, match="OPENAI_API_KEY não há nenhuma"):
        make(scripted.url)


def test_the_key_may_lie_in_a_file(scripted, make, tmp_path):
    file = tmp_path / "chave"
    file.write_text(f"{KEY}\n", encoding="utf-8")
    assert make(scripted.url, api_key_file=file).endpoint.key == KEY
    for content, match in (("", "vazio"), ("duas palavras", "não pode ser"), ("chavé", "não pode ser")):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=match) as caught:
            make(scripted.url, api_key_file=file)
        assert not content or content not in str(caught.value)
    with pytest.raises(UsageError, match="não_há"):
        make(scripted.url, api_key_file=tmp_path / "não_há")


def test_model_and_address_must_be_named(make, monkeypatch):
    with pytest.raises(UsageError, match="que modelo"):
        OpenAIGenerator.open(None, plugins=load_plugins("none"))
    with pytest.raises(UsageError, match="a que servidor"):
        OpenAIGenerator.open("m", plugins=load_plugins("none"))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://ana:segredo@x/v1")
    with pytest.raises(UsageError, match="OPENAI_BASE_URL") as caught:
        OpenAIGenerator.open("m", plugins=load_plugins("none"))
    assert "segredo" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://x/v1", "x/v1", "http://", "http://x:99999/", "http://u:p@x/", "http://x/?k=1"])
def test_addresses_are_checked(url):
    with pytest.raises(ValidationError):
        OpenAIConfig(base_url=url)


def test_the_settings_take_no_key():
    component = load_plugins("openai").registry.get("generator", "openai")
    with pytest.raises(ConfigError, match="api_key") as caught:
        component.make_config({"api_key": KEY}, where="plugin.openai")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "warned"),
    [("http://127.0.0.1:8000/v1", False), ("http://[::1]:8/v1", False), ("https://x.example/v1", False),
     ("http://x.example/v1", True)],
)  # fmt: skip
def test_an_open_connection_is_said(url, warned):
    said = OpenAIGenerator(Endpoint(url, "m"), OpenAIConfig()).describe()
    assert url in said
    assert ("não é cifrada" in said) is warned
