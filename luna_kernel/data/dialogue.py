"""Dialogues as ids: the only place that puts control tokens into a sequence.

    <|system|>Seja breve.<|end|><|user|>Oi!<|end|><|assistant|>Olá.<|end|>

A thought is a turn of its own before the answer: `<|thinking|>…<|end|><|assistant|>…<|end|>`. What the assistant
says, what it thinks, and the end token of both are supervised; every other token is only read. The template is data
in the tokenizer's folder (`dialogue.json`): roles, thinking, proactive, end. There is no template language.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Literal

from luna_kernel.contracts.data import Message
from luna_kernel.data.tokenizer import Tokenizer

Opening = Literal["assistant", "thinking", "proactive"]


class DialogueTemplate:
    """Messages to ids and masks, with the control tokens of one tokenizer.

    Args:
        tokenizer: with the dialogue's control tokens.
        remember: texts whose ids are remembered, the last ones; for conversations, which grow by a message at a time.
    """

    def __init__(self, tokenizer: Tokenizer, *, remember: int = 0) -> None:
        self.tokenizer = tokenizer
        self._encode = functools.lru_cache(remember)(tokenizer.encode) if remember else tokenizer.encode
        data = tokenizer.dialogue
        self._roles = {role: tokenizer.control_id(name) for role, name in data["roles"].items()}
        self.thinking_id = tokenizer.control_id(data["thinking"])
        proactive = data.get("proactive")
        self._proactive = self._roles["assistant"] if proactive is None else tokenizer.control_id(proactive)
        self.end_id = tokenizer.end_id

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id at which a generated turn is over: the end token, and any token that would open a turn."""
        return frozenset({self.end_id, self.thinking_id, self._proactive, *self._roles.values()})

    def render(
        self, messages: Sequence[Message], *, answer: bool | Opening = False, thoughts: bool = True
    ) -> tuple[list[int], list[bool]]:
        """The ids of a dialogue and which of them are supervised.

        Args:
            messages: the turns, in order.
            answer: open the assistant's turn at the end, for the model to go on: True or "assistant" for the answer,
                "thinking" for the thought before it, "proactive" for words that nobody asked for.
            thoughts: keep what the assistant thought in its turns, where messages carry it.

        Returns:
            Ids, and a mask of the same length: True where the token is a target of training.
        """
        ids: list[int] = []
        mask: list[bool] = []
        for message in messages:
            supervised = message.role == "assistant"
            if supervised and message.thinking and thoughts:
                self._turn(ids, mask, self.thinking_id, message.thinking, supervised=True)
            self._turn(ids, mask, self._roles[message.role], message.content, supervised=supervised)
        if answer:
            opening = "assistant" if answer is True else answer
            ids.append(
                {"thinking": self.thinking_id, "proactive": self._proactive}.get(opening, self._roles["assistant"])
            )
            mask.append(False)
        return ids, mask

    def _turn(self, ids: list[int], mask: list[bool], opening: int, text: str, *, supervised: bool) -> None:
        content = self._encode(text)
        ids += [opening, *content, self.end_id]
        mask += [False, *[supervised] * (len(content) + 1)]

    def render_text(self, text: str) -> tuple[list[int], list[bool]]:
        """The ids of a plain document, with the end token after it; all of them are supervised."""
        ids = [*self.tokenizer.encode(text), self.end_id]
        return ids, [True] * len(ids)

    def count(self, messages: Iterable[Message]) -> int:
        """How many tokens `messages` cost in a prompt, with the thoughts that they carry."""
        return len(self.render(list(messages))[0])

    def show(self, ids: Sequence[int], mask: Sequence[bool]) -> str:
        """The sequence as text with supervised stretches between ⟦ ⟧, for people to check."""
        parts: list[str] = []
        start = 0
        for index in range(1, len(ids) + 1):
            if index == len(ids) or mask[index] != mask[start]:
                text = self.tokenizer.decode(ids[start:index], controls=True)
                parts.append(f"⟦{text}⟧" if mask[start] else text)
                start = index
        return "".join(parts)
