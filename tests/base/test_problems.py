"""What a check of pydantic's found, in a person's language, whole sentences of one language."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import _PROBLEMS, problem_of

t = catalogue("luna_kernel.base")


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: Annotated[int, Field(ge=1, lt=10)] = 1
    share: Annotated[float, Field(gt=0, le=1.5)] = 1
    name: Annotated[str, Field(min_length=1, max_length=3)] = "a"
    items: Annotated[list[int], Field(max_length=2)] = []
    kind: Literal["a", "b"] = "a"
    even: int = 0

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("só pares")
        return value


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"count": 0}, "deve ser 1 ou mais"),
        ({"count": 10}, "deve ser menos que 10"),
        ({"count": "x"}, "deve ser um número inteiro"),
        ({"share": 0}, "deve ser mais que 0"),
        ({"share": 2}, "deve ser 1.5 ou menos"),
        ({"share": "x"}, "deve ser um número"),
        ({"name": ""}, "não pode ficar vazio"),
        ({"name": "abcd"}, "deve ter 3 caracteres ou menos"),
        ({"items": [1, 2, 3]}, "deve ter 2 itens ou menos"),
        ({"kind": "c"}, "deve ser 'a' ou 'b'"),
        ({"even": 1}, "só pares"),
        ({"other": 1}, "não existe"),
    ],
)
def test_in_words(fields: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNA_LANG", "pt")
    with pytest.raises(ValidationError) as caught:
        Asked(**fields)
    (item,) = caught.value.errors(include_url=False)
    assert problem_of(item) == text


def test_what_is_not_known_is_said_as_pydantic_says_it() -> None:
    assert problem_of({"type": "unheard_of", "msg": "No"}) == "No"


def test_each_kind_has_a_sentence() -> None:
    fields = dict.fromkeys(("ge", "gt", "le", "lt", "min_length", "max_length", "expected"), 7)
    for kind in _PROBLEMS:
        assert not t(f"problem.{kind}", **fields).startswith("problem.")
