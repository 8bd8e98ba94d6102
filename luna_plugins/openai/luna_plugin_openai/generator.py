"""A generator that asks an endpoint with OpenAI's protocol."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.chat.prompt import fit_messages
from luna_kernel.chat.streaming import ThoughtTags
from luna_kernel.contracts.chat import Event, Generator, Notice, Sampling, Thinking, Turn

from .config import OpenAIConfig, wrong_address
from .failures import Endpoint

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins

    from .client import Client

t = catalogue(__package__)

_CONTEXT = 8192
"""Tokens, where neither the configuration nor the endpoint says."""
_MAX_KEY = 4096


class OpenAIGenerator(Generator):
    """A model behind an endpoint.

    Messages are sent as messages: the endpoint's template alone makes control tokens of them. Nothing is kept between
    turns but the client's settings; the endpoint may keep what it has read, and says so in `cached_tokens`.

    Args:
        endpoint: where, which model, which key.
        config: what the endpoint is like.
    """

    name = "openai"

    def __init__(self, endpoint: Endpoint, config: OpenAIConfig) -> None:
        self.endpoint = endpoint
        self.config = config
        self.grounds_itself = config.grounds_itself
        self._context = config.context_length or _CONTEXT
        self._told_unsent = False

    @classmethod
    def open(
        cls, model: str | None, *, plugins: Plugins, device: str = "cpu", config: OpenAIConfig | None = None
    ) -> OpenAIGenerator:
        """Find endpoint and key, and ask the endpoint whether it is there.

        Raises:
            UsageError: no model or no address was named, the key cannot be read, nobody listens, the key is refused.
        """
        config = config or OpenAIConfig()
        if not model:
            raise UsageError(t("no_model"), hint=t("no_model.hint"))
        key, place = _read_key(config)
        generator = cls(Endpoint(_base_url(config), model, key, place), config)
        generator._greet()
        return generator

    @property
    def client(self) -> Client:
        """How requests are sent."""
        from .client import Client  # httpx takes a while to import

        return Client(self.endpoint, self.config)

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._context

    def describe(self) -> str:
        """Where messages go, and whether they can be read on the way."""
        text = t("describe", url=self.endpoint.url)
        host = self.endpoint.host.rpartition("@")[2].partition(":")[0]
        local = host in ("localhost", "[", "127.0.0.1") or self.endpoint.host.startswith("[::1]")
        return text if local or self.endpoint.url.startswith("https:") else f"{text} {t('describe.open')}"

    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        """Stream the answer; what had arrived before a connection broke is kept, and the turn is interrupted."""
        messages, left_out = fit_messages(self, turn)
        if left_out:
            turn.notes["prompt"] = {"messages_left_out": left_out}
        turn.usage = {"prompt_tokens": self.count_tokens(messages), "cached_tokens": 0, "completion_tokens": 0}
        turn.stop_reason = "interrupted"  # until the endpoint says how it ended
        yield from self._say_what_is_not_sent(turn.sampling)
        body = self.body(turn, [{"role": item.role, "content": item.content} for item in messages])
        tags, told = ThoughtTags(), False
        if stop():
            return
        for piece in self.client.stream(body, stop):
            if isinstance(piece, Notice):
                yield piece
                continue
            if piece.text or piece.thinking:
                turn.usage["completion_tokens"] += 0 if told else 1  # one piece is about one token
            if piece.usage:
                turn.usage.update(piece.usage)
                told = True
            if piece.thinking:
                yield Thinking(piece.thinking)
            if piece.text:
                yield from tags.push(piece.text)
            if piece.filtered:
                yield Notice(t("filtered", host=self.endpoint.host))
            if piece.reason is not None:
                turn.stop_reason = piece.reason
        yield from tags.finish()
        if not told:
            turn.notes["usage"] = {"estimated": True}

    def body(self, turn: Turn, messages: list[dict[str, str]]) -> dict[str, Any]:
        """The request as JSON."""
        sampling, config = turn.sampling, self.config
        fields: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            config.max_tokens_field: sampling.max_tokens + (config.think_tokens if turn.think else 0),
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        if sampling.seed is not None:
            fields["seed"] = sampling.seed
        fields |= {name: getattr(sampling, name) for name in config.sampling_fields}
        return fields | config.body | (config.think if turn.think else config.no_think)

    def _say_what_is_not_sent(self, sampling: Sampling) -> Iterator[Event]:
        """Once: what was asked for of the sampling and the endpoint is not told."""
        usual = Sampling()
        names = {"top_k", "min_p", "repetition_penalty"} - set(self.config.sampling_fields) - set(self.config.body)
        unsent = sorted(name for name in names if getattr(sampling, name) != getattr(usual, name))
        if unsent and not self._told_unsent:
            self._told_unsent = True
            yield Notice(t("not_sent", names=", ".join(unsent)))

    def _greet(self) -> None:
        """See that somebody listens, and take the context length if the endpoint says it."""
        listed = self.client.models()
        names = [item["id"] for item in listed or []]
        own = next((item for item in listed or [] if item["id"] == self.endpoint.model), None)
        if own is None and len(names) > 1:
            near = difflib.get_close_matches(self.endpoint.model, names, n=1, cutoff=0.8)
            if near:
                text = t("unknown_model", model=self.endpoint.model, host=self.endpoint.host, reason="GET /models")
                raise UsageError(text, hint=t("unknown_model.nearest", name=near[0]))
        if own is None and listed and len(listed) == 1:
            own = listed[0]  # a server of one model takes other names for it
        if self.config.context_length is None and own is not None:
            self._context = _context_of(own) or self._context


def _context_of(model: dict[str, Any]) -> int | None:
    """The context length as servers put it into their list: vLLM and Luna, OpenRouter, llama.cpp."""
    meta = model.get("meta")
    for found in (
        model.get("max_model_len"),
        model.get("context_length"),
        *((meta.get("n_ctx"), meta.get("n_ctx_train")) if isinstance(meta, dict) else ()),
    ):
        if isinstance(found, int) and found >= 64:
            return found
    return None


def _base_url(config: OpenAIConfig) -> str:
    url = config.base_url or os.environ.get("OPENAI_BASE_URL", "").strip()
    if not url:
        raise UsageError(t("no_address"), hint=t("no_address.hint"))
    if problem := wrong_address(url):
        raise UsageError(t("bad_address", reason=problem), hint=t("no_address.hint"))
    return url.rstrip("/")


def _read_key(config: OpenAIConfig) -> tuple[str | None, str]:
    """The key and where it comes from; None where there is none, as with a server of one's own."""
    if config.api_key_file is not None:
        place = str(config.api_key_file)
        try:
            with config.api_key_file.expanduser().open("rb") as file:
                key = file.read(_MAX_KEY + 1).decode("utf-8", "replace").strip()
        except OSError as error:
            raise UsageError(t("key_file", path=place, reason=reason_of(error)), hint=t("key.hint")) from error
        if not key:
            raise UsageError(t("key_file.empty", path=place), hint=t("key.hint"))
    else:
        place = config.api_key_env
        key = os.environ.get(place, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key or len(key) > _MAX_KEY:
        raise UsageError(t("key_form", place=place), hint=t("key.hint"))
    return key or None, place
