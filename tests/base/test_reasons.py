"""Reasons of the operating system, in the user's language."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from luna_kernel.base import reasons
from luna_kernel.base.messages import load_texts
from luna_kernel.base.reasons import reason_of
from luna_kernel.base.storage import final_path


def test_a_reason_is_said_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied", "/x")
    monkeypatch.setenv("LUNA_LANG", "pt")
    assert reason_of(refused) == "sem permissão"
    monkeypatch.setenv("LUNA_LANG", "en")
    assert reason_of(refused) == "permission denied"


def test_a_reason_without_a_text_of_ours_is_the_systems() -> None:
    assert reason_of(OSError(errno.EDOM, "out of domain")) == "out of domain"
    assert reason_of(OSError("only words")) == "only words"


@pytest.mark.parametrize("language", ["pt_BR", "en"])
def test_every_reason_has_its_text(language: str) -> None:
    texts = load_texts("luna_kernel.base", language)
    assert {key for key in texts if key.startswith("reason.")} == {f"reason.{name}" for name in reasons._KNOWN}


def test_a_temporary_place_is_named_by_what_it_will_be() -> None:
    mark = "0123456789abcdef"
    place = Path(os.sep) / "home" / f".modelo.luna-new-{mark}" / f".luna.json.luna-tmp-{mark}"
    assert final_path(place) == Path(os.sep) / "home" / "modelo" / "luna.json"
    assert final_path(Path("home") / ".luna-new") == Path("home") / ".luna-new"
