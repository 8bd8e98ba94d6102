from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """English messages and none of the user's own settings."""
    for variable in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("LUNA_LANG", "en")
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "luna-home"))
