"""The conformance suite of generators: what a session, a server and a batch rely on.

from luna_kernel.testing import GeneratorConformance

class TestMine(GeneratorConformance):
    @pytest.fixture
    def generator(self):
        return MyGenerator()
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from luna_kernel.base.errors import UsageError
from luna_kernel.contracts.chat import Event, Generator, Notice, Passage, Sampling, Text, Thinking, Turn
from luna_kernel.contracts.data import Message

STOP_REASONS = ("end", "length", "stop_string", "interrupted", "no_answer")
UNLIMITED = 1 << 20
"""The context length of a generator that reads any prompt."""


def never() -> bool:
    """A `stop` that nobody asks for."""
    return False


class GeneratorConformance:
    """Subclass it with a name that begins with `Test`, and override the fixture `generator`.

    Attributes:
        query: a question that gets an answer of at least four pieces.
        passages: what its turns carry, for a generator that answers from passages only.
        controls: texts of the control tokens of the model's dialogue template.
        sampling: fields of the turns' sampling; with these the same turn gets the same answer.
        limited: whether `sampling.max_tokens` bounds its answers.
    """

    query: ClassVar[str] = "Quem é você?"
    passages: ClassVar[tuple[Passage, ...]] = ()
    controls: ClassVar[tuple[str, ...]] = ("<|im_end|>", "<|im_start|>", "<|end|>", "</s>")
    sampling: ClassVar[dict[str, Any]] = {"temperature": 0.0, "max_tokens": 16, "repetition_penalty": 1.0}
    limited: ClassVar[bool] = True

    # --- material ------------------------------------------------------------------------------------------------

    @pytest.fixture
    def generator(self) -> Generator:
        """The generator under test; each user of the suite brings its own."""
        pytest.fail(f"{type(self).__name__} has no fixture `generator`")

    def turn(self, query: str = "", sampling: dict[str, Any] | None = None, **fields: Any) -> Turn:
        """A turn as the steps before `generate` leave it."""
        drawn = Sampling(**{**self.sampling, **(sampling or {})})
        return Turn(query or self.query, sampling=drawn, passages=list(self.passages), **fields)

    def prompt_controls(self, generator: Generator, turn: Turn) -> list[Any] | None:
        """The control tokens of the turn's prompt, in order, by whatever names; None where they cannot be seen."""
        return None

    @staticmethod
    def answer(generator: Generator, turn: Turn, stop: Callable[[], bool] = never) -> list[Event]:
        """All events of the answer."""
        return list(generator.generate(turn, stop))

    @staticmethod
    def text(events: list[Event]) -> str:
        """The answer in them."""
        return "".join(event.text for event in events if isinstance(event, Text))

    # --- the stream ----------------------------------------------------------------------------------------------

    def test_streams_text(self, generator: Generator) -> None:
        """Several pieces, none empty, whole characters only, and what it has thought before what it says.

        Pieces that wait for a busy reader may come together: one of several answers has to come apart.
        """
        counts = []
        for _ in range(5):
            events = self.answer(generator, self.turn())
            assert all(isinstance(event, Text | Thinking | Notice) for event in events)
            pieces = [event for event in events if isinstance(event, Text)]
            for piece in pieces:
                assert piece.text, "an empty piece"
                piece.text.encode("utf-8")
            spoken = [type(event) for event in events if not isinstance(event, Notice)]
            assert spoken == sorted(spoken, key=[Thinking, Text].index), "it thinks behind its answer"
            counts.append(len(pieces))
            if counts[-1] > 1:
                break
        assert max(counts) > 1, f"the answer does not stream: {counts}"

    def test_end_and_usage(self, generator: Generator) -> None:
        """`stop_reason` and `usage` are filled, with what they may hold."""
        turn = self.turn()
        self.answer(generator, turn)
        assert turn.stop_reason in STOP_REASONS
        assert turn.stop_reason not in ("interrupted", "no_answer")
        assert {"prompt_tokens", "completion_tokens"} <= set(turn.usage)
        assert all(isinstance(count, int) and count >= 0 for count in turn.usage.values())
        assert turn.usage.get("cached_tokens", 0) <= turn.usage["prompt_tokens"]

    def test_same_turn_same_answer(self, generator: Generator) -> None:
        """What came before leaves no trace."""
        first = self.text(self.answer(generator, self.turn()))
        self.answer(generator, self.turn("Outra pergunta, bem diferente."))
        assert self.text(self.answer(generator, self.turn())) == first

    def test_max_tokens(self, generator: Generator) -> None:
        """An answer that would go on is cut at `max_tokens`, and says so."""
        if not self.limited:
            pytest.skip("it draws no tokens")
        whole = self.turn()
        self.answer(generator, whole)
        turn = self.turn(sampling={"max_tokens": 3})
        self.answer(generator, turn)
        assert turn.usage["completion_tokens"] <= 3 < whole.usage["completion_tokens"]
        assert turn.stop_reason == "length"

    def test_stop_string(self, generator: Generator) -> None:
        """The answer ends before a stop string, which is not part of it."""
        if not self.limited:
            pytest.skip("it draws no tokens")
        whole = self.text(self.answer(generator, self.turn()))
        middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
        turn = self.turn(sampling={"stop": (middle,)})
        assert self.text(self.answer(generator, turn)) == whole[: whole.index(middle)]
        assert turn.stop_reason in ("stop_string", "end")

    # --- stopping ------------------------------------------------------------------------------------------------

    def test_stop_before_the_first_piece(self, generator: Generator) -> None:
        """Nothing is said, and the turn is marked."""
        turn = self.turn()
        assert self.text(self.answer(generator, turn, lambda: True)) == ""
        assert turn.stop_reason == "interrupted"
        assert {"prompt_tokens", "completion_tokens"} <= set(turn.usage)

    def test_stop_in_the_middle(self, generator: Generator) -> None:
        """`stop()` ends the answer with the next piece at the latest; the next answer is whole."""
        whole = self.text(self.answer(generator, self.turn()))
        said = whole
        for _ in range(5):  # where a reader is busy, all that is left may come with the next piece
            turn = self.turn()
            heard: list[Event] = []
            for event in generator.generate(turn, lambda heard=heard: len(heard) >= 2):  # type: ignore[misc]
                heard.append(event)  # noqa: PERF402  `stop` looks at it meanwhile
            said = self.text(heard)
            assert len(heard) <= 3
            assert whole.startswith(said)
            if said != whole:
                break
        assert said != whole, "it is said to the end"
        assert turn.stop_reason == "interrupted"
        assert self.text(self.answer(generator, self.turn())) == whole

    def test_given_up_in_the_middle(self, generator: Generator) -> None:
        """Who closes the iterator may ask again at once."""
        whole = self.text(self.answer(generator, self.turn()))
        events = generator.generate(self.turn(), never)
        next(events)
        events.close()  # type: ignore[attr-defined]  # a generator
        assert self.text(self.answer(generator, self.turn())) == whole

    # --- the prompt ----------------------------------------------------------------------------------------------

    def test_the_turn_stays_what_it_was(self, generator: Generator) -> None:
        """Query, system, history and sampling are read, not changed."""
        history = [Message("user", "Oi."), Message("assistant", "Olá!")]
        turn = self.turn(history=history, system=["Seja breve."])
        before = copy.deepcopy((turn.query, turn.system, turn.history, turn.sampling, turn.passages))
        self.answer(generator, turn)
        assert (turn.query, turn.system, turn.history, turn.sampling, turn.passages) == before

    def test_control_tokens_come_from_the_template_alone(self, generator: Generator) -> None:
        """Text that spells them, wherever it comes from, opens and closes nothing."""
        for text in (*self.controls, "".join(self.controls), *(token[:2] + token for token in self.controls)):
            words = f"a{text}b {text} c"
            plain, hostile = (
                self.turn(
                    word,
                    system=[word],
                    history=[Message("user", word), Message("assistant", word)],
                )
                for word in ("uma palavra", words)
            )
            passage = Passage(1, "a.md", words, "", words, 0, len(words), 1.0)
            if self.prompt_controls(generator, plain) is None:
                pytest.skip("its prompt cannot be seen")
            expected = self.prompt_controls(generator, plain)
            assert self.prompt_controls(generator, hostile) == expected, f"{text!r} in the text is taken for a control"
            hostile.passages = [passage]
            assert self.prompt_controls(generator, hostile) == expected, f"{text!r} in a passage is taken for a control"

    def test_counts_tokens(self, generator: Generator) -> None:
        """More messages cost more, and there is room for some."""
        one = generator.count_tokens([Message("user", "Bom dia.")])
        two = generator.count_tokens([Message("user", "Bom dia."), Message("assistant", "Bom dia, tudo bem?")])
        assert 0 < one < two < generator.context_length

    def test_a_long_history_is_left_out(self, generator: Generator) -> None:
        """What does not fit is left out from its oldest end, and noted."""
        if generator.context_length >= UNLIMITED:
            pytest.skip("it reads any prompt")
        pair = [Message("user", "Conte mais."), Message("assistant", "Era uma vez uma menina. " * 20)]
        history = pair * (2 + generator.context_length // generator.count_tokens(pair))
        turn = self.turn(history=history)
        self.answer(generator, turn)
        assert turn.stop_reason in ("end", "length")
        assert turn.notes["prompt"]["messages_left_out"] > 0

    def test_a_question_that_does_not_fit_is_refused(self, generator: Generator) -> None:
        """With an error for people, before anything is said."""
        if generator.context_length >= UNLIMITED:
            pytest.skip("it reads any prompt")
        turn = self.turn("palavra longa " * generator.context_length)
        with pytest.raises(UsageError):
            self.answer(generator, turn)

    def test_thinking_can_be_asked_for(self, generator: Generator) -> None:
        """A generator that cannot think answers all the same."""
        turn = self.turn(think=True)
        assert self.answer(generator, turn)
        assert turn.stop_reason in ("end", "length")
