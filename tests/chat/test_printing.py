"""What reaches the person: colours where there are some, remarks on lines of their own."""

from __future__ import annotations

import pytest

from luna_kernel.chat.printing import PlainPrinter, TerminalPrinter
from luna_kernel.chat.session import Session
from luna_kernel.contracts.chat import Notice, Painted, Text, Turn

PAINTED = Painted("pão e café", [(0, 3, "bold red"), (6, 10, "black on #cfe8ff")])


def test_a_painted_text_is_a_text() -> None:
    assert PAINTED == "pão e café"
    assert f"{PAINTED}!" == "pão e café!"
    assert PAINTED.spans[0] == (0, 3, "bold red")
    assert Painted("x").spans == ()


@pytest.mark.parametrize("plain", [False, True], ids=["colour", "NO_COLOR"])
def test_colours_are_shown_on_a_terminal_alone(
    plain: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    TerminalPrinter().remark(PAINTED)
    said = capsys.readouterr().err
    assert ("\x1b[1;31mpão" in said) is not plain
    assert ("48;5;" in said) is not plain


def test_what_is_no_clean_text_loses_its_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets would be wrong after control characters were taken out."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    TerminalPrinter().remark(Painted("a\x1b[2Jb", [(0, 3, "bold red")]))
    said = capsys.readouterr().err
    assert "a[2Jb" in said
    assert "\x1b[2J" not in said
    assert "31m" not in said


def test_a_remark_after_an_answer_has_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    for printer in (TerminalPrinter(), PlainPrinter()):
        for event in (Text("resposta"), Notice("nota um"), Notice("nota dois")):
            printer.show(event)
    out, err = capsys.readouterr()
    assert out == "resposta\nresposta"
    assert err == "nota um\nnota dois\n" + "\nnota um\nnota dois\n"


@pytest.mark.parametrize("answer", ["resposta", "resposta\n"])
def test_an_answer_ends_its_line_once(answer: str, capsys: pytest.CaptureFixture[str], plugins, echo) -> None:
    session = Session(plugins, echo)
    turn = Turn("?", answer=answer, stop_reason="end", timings={"total": 0.1})
    for printer in (TerminalPrinter(), PlainPrinter()):
        printer.show(Text(answer))
        printer.end(turn, session)
        said = capsys.readouterr().out
        assert said.split("\n")[0] == "resposta"
        assert "\n\n" not in said
