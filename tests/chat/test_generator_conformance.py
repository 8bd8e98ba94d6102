"""The kernel's own generators pass the suite that every generator passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luna_kernel.chat.generators import ExtractiveGenerator, LunaGenerator
from luna_kernel.chat.prompt import question_of
from luna_kernel.contracts.chat import Generator, Passage, Turn
from luna_kernel.contracts.data import Message
from luna_kernel.data.tokenizer import CONTROL_TOKENS
from luna_kernel.plugins import load_plugins
from luna_kernel.testing import GeneratorConformance

FACTS = "O prazo de devolução é de trinta dias. A nota fiscal deve ser guardada."


class TestLuna(GeneratorConformance):
    controls = CONTROL_TOKENS
    # Taken greedily, an untrained model ends at once.
    sampling = {"temperature": 1.0, "min_p": 0.0, "seed": 1, "max_tokens": 16, "repetition_penalty": 1.0}

    @pytest.fixture
    def generator(self, tiny_model: Path, home: Path) -> LunaGenerator:
        return LunaGenerator.open(str(tiny_model), plugins=load_plugins("none"))

    def prompt_controls(self, generator: Generator, turn: Turn) -> list[Any]:
        assert isinstance(generator, LunaGenerator)
        messages = [*(Message("system", text) for text in turn.system), *turn.history]
        messages.append(Message("user", question_of(turn, grounded=True)))
        controls = set(generator.tokenizer.controls.values())
        return [id_ for id_ in generator.template.render(messages, answer=True)[0] if id_ in controls]


class TestExtractive(GeneratorConformance):
    query = "Qual é o prazo de devolução?"
    passages = (Passage(1, "m.md", "Manual", "", FACTS, 0, len(FACTS), 0.9),)
    limited = False

    @pytest.fixture
    def generator(self) -> ExtractiveGenerator:
        return ExtractiveGenerator()
