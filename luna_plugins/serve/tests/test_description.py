"""The server against its own description: requests that it allows and forbids, as schemathesis makes them up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Served

pytest.importorskip("schemathesis")

CONFIG = """
[checks.positive_data_acceptance]
# What no schema says: the last message is a user's, a text has a word in it, an answer is known.
expected-statuses = ["2xx", "400", "404", "429"]
"""


@pytest.mark.slow
def test_every_check_of_schemathesis(served: Served, tmp_path: Path) -> None:
    """No 5xx, no undocumented status, no answer of another form, nothing forbidden accepted."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG, encoding="utf-8")
    before = served.metric("luna_tokens_generated_total")
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{served.url}/openapi.json",
            "--max-examples", "25", "--seed", "1", "--request-timeout", "60", "--no-color",
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert served.metric("luna_tokens_generated_total") > before, "no request got as far as the model"
