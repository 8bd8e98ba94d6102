"""Where things are: what platformdirs says, without its import."""

import os
import sys
from pathlib import Path

import platformdirs
import pytest

from luna_kernel.base import paths

KINDS = ("config", "data", "state", "cache")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere platformdirs itself is asked")
@pytest.mark.parametrize("given", [None, "", "  ", "/somewhere/else"])
@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_those_of_platformdirs(kind, given, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("XDG_", "LUNA_"))]:
        monkeypatch.delenv(name)
    if given is not None:
        monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", given)
    expected = getattr(platformdirs, f"user_{kind}_dir")("luna", appauthor=False)
    assert getattr(paths, f"{kind}_dir")() == Path(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_under_one_home(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNA_HOME", str(tmp_path))
    monkeypatch.delenv("LUNA_DATA_DIR", raising=False)
    assert getattr(paths, f"{kind}_dir")() == tmp_path / kind
