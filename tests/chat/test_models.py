"""Models by name: those of the models folder, and the demo model, which lies in the cache."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from luna_kernel.base import paths
from luna_kernel.base.errors import UsageError
from luna_kernel.chat.models import find_model, list_models, name_of
from luna_kernel.cli.main import cli
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

SMALL = {"num_layers": 1, "d_model": 32, "num_heads": 2, "num_kv_heads": 2, "head_dim": 16, "ffn_dim": 48}


@pytest.fixture
def demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two demo models, the first used after the second."""
    monkeypatch.setenv("LUNA_HOME", str(tmp_path))
    plugins = load_plugins("none")
    blueprint = Blueprint.from_preset("tiny", plugins.registry, vocab_size=64, dims=SMALL)
    folders = [paths.cache_dir() / "demo" / name for name in ("a" * 16, "b" * 16)]
    folders[0].parent.mkdir(parents=True)
    save_model(folders[0], Decoder(blueprint, plugins.registry), plugins=plugins)
    shutil.copytree(folders[0], folders[1])
    os.utime(folders[1], (1, 1))
    return folders


def test_demo_is_the_one_used_last(demos: list[Path]) -> None:
    assert find_model("demo") == demos[0]
    os.utime(demos[1], (2e9, 2e9))
    assert find_model("demo") == demos[1]
    assert [(entry.name, entry.folder) for entry in list_models()] == [("demo", demos[1])]
    assert name_of(demos[1]) == "demo"


def test_a_model_of_that_name_comes_first(demos: list[Path]) -> None:
    own = paths.models_dir() / "demo"
    shutil.copytree(demos[0], own)
    assert find_model("demo") == own
    assert [entry.folder for entry in list_models()] == [own]


def test_demo_can_be_removed(demos: list[Path]) -> None:
    for folder in demos:
        done = CliRunner().invoke(cli, ["models", "rm", "demo", "--yes"])
        assert done.exit_code == 0, done.output
        assert not folder.exists()
    assert CliRunner().invoke(cli, ["models", "rm", "demo", "--yes"]).exit_code == 2
    with pytest.raises(UsageError):
        find_model("demo")
