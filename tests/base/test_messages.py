"""The catalogue of messages: which language, and numbers in it."""

from __future__ import annotations

import pytest

from luna_kernel.base import messages
from luna_kernel.base.messages import catalogue, language, number_text


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"LUNA_LANG": "pt"}, "pt_BR"),
        ({"LUNA_LANG": "en_GB", "LANG": "pt_BR.UTF-8"}, "en"),
        ({"LANGUAGE": "de", "LC_ALL": "", "LC_MESSAGES": "en_US.UTF-8", "LANG": "pt_BR.UTF-8"}, "en"),
        ({"LANG": "fr_FR.UTF-8"}, "pt_BR"),
        ({}, "pt_BR"),
    ],
)
def test_the_first_variable_that_names_a_language_of_luna_decides(
    env: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LUNA_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_a_key_that_is_in_no_catalogue_is_a_mistake_in_the_program() -> None:
    with pytest.raises(KeyError, match="nosuchkey"):
        catalogue("luna_kernel.base")("nosuchkey")


def test_thousands_are_apart_by_no_decimal_sign() -> None:
    assert number_text(999.6) == "1\N{NARROW NO-BREAK SPACE}000"
    assert number_text(1_234_567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert number_text(12.3) == "12"


def test_a_count_comes_with_its_noun(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"files": "{files:arquivo|arquivos} em {seconds:.1f} s"}
    monkeypatch.setattr(messages, "load_texts", lambda package, lang: texts)
    t = catalogue("anything")
    assert t("files", files=1, seconds=2) == "1 arquivo em 2.0 s"
    assert t("files", files="1", seconds=2) == "1 arquivo em 2.0 s"
    assert t("files", files=0, seconds=2) == "0 arquivos em 2.0 s"
    assert t("files", files=21, seconds=2) == "21 arquivos em 2.0 s"
