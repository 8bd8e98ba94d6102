from __future__ import annotations

import json
import subprocess
import sys

import pytest

from luna_kernel.base.logging import get_logger


def test_silence_below_warning_costs_no_import() -> None:
    script = (
        "import sys; from luna_kernel.base.logging import get_logger\n"
        "get_logger('a').info('quiet', n=1); assert 'structlog' not in sys.modules\n"
        "get_logger('a').warning('loud', n=1); assert 'structlog' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quiet" not in done.stderr
    assert "loud" in done.stderr
    assert "n=1" in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


def test_json_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LUNA_LOG", "json")
    monkeypatch.setenv("LUNA_LOG_LEVEL", "debug")
    logger = get_logger("luna.test").bind(run="r1")
    logger.debug("saved", path="ção", count=3, odd=object)

    def fail(segredo: str) -> None:
        raise RuntimeError(f"failed after {len(segredo)}")

    try:
        fail("oirausu od sarvalap"[::-1])
    except RuntimeError:
        logger.exception("broke")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["odd"] == "<class 'object'>"
    assert {"event": "saved", "path": "ção", "count": 3, "run": "r1", "level": "debug"}.items() <= first.items()
    assert (first["logger"], second["level"]) == ("luna.test", "error")
    assert "RuntimeError: failed after 19" in second["exception"]
    assert "palavras" not in json.dumps(second)  # no local variables


@pytest.mark.parametrize("form", ["console", "json"])
def test_people_s_words_are_never_logged(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUNA_LOG", form)
    get_logger("x").bind(question="segredo?").warning(
        "turn", prompt="segredo", messages=[{"content": "segredo"}], text=7, tokens=12
    )
    written = capsys.readouterr().err
    assert "segredo" not in written
    assert "<hidden: 7>" in written
    assert "12" in written


def test_levels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LUNA_LOG_LEVEL", "error")
    logger = get_logger("x")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)(f"at {level}")
    written = capsys.readouterr().err
    assert "at warning" not in written
    assert "at error" in written
    assert "at critical" in written
