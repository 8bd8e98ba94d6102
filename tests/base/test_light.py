"""The base is light: what `luna --help` imports must import nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import luna_kernel.base

HEAVY = ("torch", "numpy", "pydantic", "pydantic_settings", "structlog", "rich", "prompt_toolkit", "sqlite3")
MODULES = sorted(
    path.stem
    for path in Path(luna_kernel.base.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "settings")
)


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_base_module_imports_nothing_heavy(module: str) -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        f"import luna_kernel.base.{module}\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & set(HEAVY)


def test_the_folder_of_texts_and_the_module_of_their_name_live_together() -> None:
    from luna_kernel.base import messages

    assert Path(messages.__file__).name == "messages.py"
    folder = resources.files("luna_kernel.base") / "messages"
    assert (folder / "en.json").is_file()
    assert (folder / "pt_BR.json").is_file()
