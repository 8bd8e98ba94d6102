"""From messages to token ids, through the chat template that the GGUF file carries.

llama.cpp reads control tokens wherever their text stands, in the template as in what a person wrote. Here the template
is filled with place-holders, and cut at its control tokens; what lies between, text of template and messages together,
goes through the tokenizer with control tokens off. So ordinary text gets the very tokens that the model was trained on,
and a message that spells a control token gets the characters of it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import Message

t = catalogue(__package__)

_PLAIN = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


class Vocabulary(Protocol):
    """What a template asks of the model's vocabulary."""

    @property
    def controls(self) -> Mapping[str, int]:
        """Control tokens by their text."""

    @property
    def markup(self) -> Sequence[str]:
        """Texts of tokens that look like control tokens but are not, such as `<think>`; always read as tokens."""

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`, with control tokens off and nothing added."""


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt."""

    ids: list[int]
    inside_thinking: bool
    """Whether the template has opened a thinking part for the answer to go on with."""


class ChatTemplate:
    """The chat template of a GGUF file; it runs in Jinja's sandbox.

    Args:
        source: the template's text; None for plain lines `role: text`.
        vocabulary: of the model.
        begin: the text of the token that begins a text, or empty.
        end: the text of the token that ends one.
        add_begin: whether a prompt that does not begin with `begin` gets it.
    """

    def __init__(
        self, source: str | None, vocabulary: Vocabulary, *, begin: str = "", end: str = "", add_begin: bool = False
    ) -> None:
        self.plain = source is None
        self._vocabulary = vocabulary
        self._begin, self._end, self._add_begin = begin, end, add_begin
        self._template = _compile(_PLAIN if source is None else source)
        names = sorted(vocabulary.controls, key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, names))) if names else None
        marks = sorted(vocabulary.markup, key=len, reverse=True)
        self._markup = re.compile("|".join(map(re.escape, marks))) if marks else None

    def render(self, messages: Sequence[Message], *, answer: bool = True, **variables: Any) -> Prompt:
        """The prompt that makes the model answer `messages`.

        Raises:
            UsageError: the template does not take these messages.
        """
        text, places = self._fill(messages, answer, variables)
        ids: list[int] = []
        run: list[tuple[str, bool]] = []  # (text, whether a person wrote it)
        for part in re.split(f"({'|'.join(places)})", text) if places else [text]:
            if part in places:
                run.append((places[part], True))
                continue
            at = 0
            for found in self._controls.finditer(part) if self._controls is not None else ():
                run.append((part[at : found.start()], False))
                ids += self._tokens(run)
                run, at = [], found.end()
                ids.append(self._vocabulary.controls[found[0]])
            run.append((part[at:], False))
        ids += self._tokens(run)
        first = self._vocabulary.controls.get(self._begin)
        if self._add_begin and first is not None and ids[:1] != [first]:
            ids.insert(0, first)
        return Prompt(ids, text.rstrip().endswith("<think>"))

    def _fill(self, messages: Sequence[Message], answer: bool, variables: dict[str, Any]) -> tuple[str, dict[str, str]]:
        """The rendered template with place-holders, and what they stand for.

        A template may refuse a system message, or leave it out; then it becomes the beginning of the first question.
        """
        failure = ""
        for given in (messages, _without_system(messages)):
            nonce = secrets.token_hex(8)
            places = {f"place{nonce}x{number}x": message.content.strip() for number, message in enumerate(given)}
            fields = [{"role": item.role, "content": place} for item, place in zip(given, places, strict=True)]
            try:
                text = self._template.render(
                    messages=fields, add_generation_prompt=answer, bos_token=self._begin, eos_token=self._end,
                    tools=None, raise_exception=_refuse, strftime_now=_now, **variables,
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - a template is a program that came with a file
                failure = str(error) or type(error).__name__
                continue
            if all(place in text for place in places):
                return text, places
            failure = t("template.lost")
        raise UsageError(t("template.failed", reason=failure[:300]), hint=t("template.failed.hint"))

    def _tokens(self, run: list[tuple[str, bool]]) -> list[int]:
        """The ids of neighbouring texts, tokenised as one; markup that a person wrote is broken up."""
        pieces = [""]
        for text, written in run:
            at = 0
            for found in self._markup.finditer(text) if written and self._markup is not None else ():
                pieces[-1] += text[at : found.start() + 1]
                pieces.append("")
                at = found.start() + 1
            pieces[-1] += text[at:]
        return [id_ for piece in pieces if piece for id_ in self._vocabulary.tokenize(piece)]


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The system message put before the first question."""
    system = "\n\n".join(item.content for item in messages if item.role == "system")
    rest = [item for item in messages if item.role != "system"]
    if system and rest:
        rest[0] = Message(rest[0].role, f"{system}\n\n{rest[0].content}")
    return rest


def _compile(source: str) -> Any:
    from jinja2 import BaseLoader
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    try:
        return environment.from_string(source)
    except Exception as error:
        reason = (str(error) or type(error).__name__)[:300]
        raise UsageError(t("template.broken", reason=reason), hint=t("template.broken.hint")) from error


def _refuse(message: str) -> None:
    raise ValueError(message)


def _now(form: str) -> str:
    from datetime import datetime

    return datetime.now().astimezone().strftime(form)
