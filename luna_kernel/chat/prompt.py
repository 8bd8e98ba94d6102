"""What every generator with a prompt does alike: the question under its passages, and messages that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import Message

if TYPE_CHECKING:
    from luna_kernel.contracts.chat import Generator, Turn

t = catalogue(__package__)


def question_of(turn: Turn, *, grounded: bool) -> str:
    """The question, under its passages if the generator is one that answers from them.

    Passages are plain text inside the user's turn: they cannot open a turn of their own.
    """
    if not (turn.passages and grounded):
        return turn.query
    passages = "\n".join(f"[{item.number}] ({item.title or item.source}) {item.text}" for item in turn.passages)
    return f"Passagens:\n{passages}\n\nPergunta: {turn.query}"


def fit_messages(generator: Generator, turn: Turn) -> tuple[list[Message], int]:
    """The messages of the prompt and how many earlier ones had to be left out for it to fit.

    The room is the generator's `context_length` less what the answer may take; `count_tokens` says what messages cost.

    Raises:
        UsageError: the question alone is longer than the model can read.
    """
    limit = generator.context_length
    system = [part for part in turn.system if part]
    head = [Message("system", "\n\n".join(system))] if system else []
    question = Message("user", question_of(turn, grounded=generator.grounds_itself))
    room = limit - min(turn.sampling.max_tokens, limit // 4) - 1
    history = list(turn.history)
    left_out = 0
    while history and generator.count_tokens([*head, *history, question]) > room:
        # A question and its answer go together, so that the conversation begins with a question.
        drop = 2 if len(history) > 1 else 1
        history, left_out = history[drop:], left_out + drop
    needed = generator.count_tokens([*head, question])
    if needed > room:
        if head and generator.count_tokens([question]) <= room:
            return [question], left_out + 1
        raise UsageError(
            t("prompt.too_long", found=needed, model=generator.name, limit=room), hint=t("query.too_long.hint")
        )
    return [*head, *history, question], left_out
