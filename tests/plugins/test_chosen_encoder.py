"""The encoder of a dense retriever: its node, what it refuses, and what it notices when it is opened again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from luna_kernel.base.errors import ConfigError, IntegrityError, UsageError
from luna_kernel.contracts.encoders import ChosenEncoder, EncoderNode
from luna_kernel.contracts.retrievers import Encoder, OtherEncoderError
from luna_kernel.plugins.registry import Component, Registry


class LengthsConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: int = 2


class Lengths(Encoder):
    """A text's length, and how many texts it was fitted on."""

    seen = 0

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.dimension = config.dimension
        self.asked: list[int] = []

    def fit(self, texts: Sequence[str]) -> None:
        self.seen = len(texts)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Any:
        self.asked.append(len(texts))
        rows = np.zeros((len(texts), self.dimension))
        rows[:, 0] = [float(text) if text == "nan" else len(text) + query for text in texts]
        return rows

    def save(self, folder: Path) -> None:
        (folder / "seen.json").write_text(json.dumps(self.seen))

    @classmethod
    def load(cls, config: Any, folder: Path) -> Lengths:
        encoder = cls(config)
        encoder.seen = json.loads((folder / "seen.json").read_text())
        return encoder


def registry(version: int = 1) -> Registry:
    made = Registry()
    component = Component(
        "encoder", "lengths", f"{__name__}:Lengths", "toy", "toy", "1", config=f"{__name__}:LengthsConfig"
    )
    made.add(replace(component, version=version))
    return made


def chosen(version: int = 1, **fields: Any) -> ChosenEncoder:
    return ChosenEncoder({"name": "lengths", **fields}, registry(version), where="retriever.x.encoder")


def test_a_name_alone_is_a_node() -> None:
    node = TypeAdapter(EncoderNode)
    assert node.validate_python("lsa") == {"name": "lsa"}
    assert node.validate_python({"name": "lsa", "seed": 1}) == {"name": "lsa", "seed": 1}
    for wrong in ({}, {"name": 3}, 3, None, ["lsa"]):
        with pytest.raises(ValidationError):
            node.validate_python(wrong)


def test_wrong_nodes_are_said_with_their_place() -> None:
    with pytest.raises(UsageError, match=r"retriever\.x\.encoder.*lenghts"):
        ChosenEncoder({"name": "lenghts"}, registry(), where="retriever.x.encoder")
    with pytest.raises(ConfigError, match=r"retriever\.x\.encoder.*dimensao"):
        chosen(dimensao=3)
    with pytest.raises(ValueError, match="registry"):
        ChosenEncoder({"name": "lengths"}, None, where="x")


def test_vectors_come_in_batches_in_their_order() -> None:
    encoder = chosen()
    texts = ["a" * (place % 7) for place in range(1100)]
    found = encoder.vectors(texts)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((1100, 2), np.float32, True)
    assert found[:, 0].tolist() == [place % 7 for place in range(1100)]
    assert encoder.encoder.asked == [512, 512, 76]  # type: ignore[attr-defined]
    assert encoder.vectors(["a"], query=True)[0, 0] == 2
    assert encoder.vectors([]).shape == (0, 2)
    with pytest.raises(ValueError, match=r"lengths.*not finite"):
        encoder.vectors(["a", "nan"])


def test_it_outgrows_what_it_was_fitted_on() -> None:
    encoder = chosen()
    encoder.fit(["a"] * 10)
    encoder.new_since_fit += 5
    assert not encoder.outgrown(0.5)
    encoder.new_since_fit += 1
    assert encoder.outgrown(0.5)
    encoder.fit(["a"] * 16)
    assert not encoder.outgrown(0)


def test_it_goes_on_with_what_was_saved(tmp_path: Path) -> None:
    before = chosen()
    before.fit(["a"] * 3)
    before.new_since_fit = 2
    before.encoder.save(tmp_path)
    after = chosen()
    after.open(tmp_path, json.loads(json.dumps(before.state())))
    assert (after.fitted_on, after.new_since_fit, after.encoder.seen) == (3, 2, 3)  # type: ignore[attr-defined]
    with pytest.raises(OtherEncoderError, match=r"lengths \(1\).*lengths \(2\)"):
        chosen(version=2).open(tmp_path, before.state())
    with pytest.raises(OtherEncoderError, match=r"lsa \(1\).*lengths \(1\)"):
        chosen().check({**before.state(), "encoder": "lsa"})
    with pytest.raises(IntegrityError, match=r"3.*2") as caught:
        chosen(dimension=3).open(tmp_path, before.state())
    assert not isinstance(caught.value, OtherEncoderError)
