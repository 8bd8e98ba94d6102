"""Running `luna` as a whole process, away from the user's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def luna(tmp_path: Path) -> Run:
    """`luna("plugins", "--json", env={…}, cwd=…)`; in English, in a home of its own."""

    def run(*args: str, env: dict[str, str] | None = None, **options: object) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LUNA_")}
        settings = {
            "capture_output": True,
            "text": True,
            "encoding": "utf-8",
            "timeout": 60,
            "cwd": tmp_path,
            **options,
        }
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [sys.executable, "-m", "luna_kernel", *args],
            check=False,
            env={**clean, "LUNA_LANG": "en", "LUNA_HOME": str(tmp_path / "home"), **(env or {})},
            **settings,
        )

    return run
