"""What tests of several rooms need."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Spawned processes import functions of test modules as `tests.…`. Last, so that what is installed is tested.
sys.path.append(str(Path(__file__).parents[1]))


@pytest.fixture
def fresh_python() -> Callable[[Path], Path]:
    """Make a virtual environment that also sees the packages of this one; returns its python."""

    def make(folder: Path) -> Path:
        venv.create(folder, with_pip=False, symlinks=True)
        site = next((folder / "lib").glob("python*")) / "site-packages"
        outer = [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and Path(path).is_dir()]
        lines = [f"import site; site.addsitedir({path!r})" for path in outer]
        (site / "outer.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder / "bin" / "python"

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, untrained model folder with a tokenizer."""
    import torch

    from luna_kernel.data.tokenizer import Tokenizer
    from luna_kernel.model.blueprint import Blueprint
    from luna_kernel.model.checkpoint import save_model
    from luna_kernel.model.decoder import Decoder
    from luna_kernel.plugins import load_plugins

    torch.set_num_threads(1)
    plugins = load_plugins("none")
    tokenizer = Tokenizer.train(["Olá! A ação de hoje não é à toa: café, pão e coração."] * 3, 400)
    dims = {"d_model": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 16, "ffn_dim": 64}
    blueprint = Blueprint.from_preset(
        "mini", plugins.registry, vocab_size=tokenizer.vocab_size, dims={**dims, "max_positions": 128}
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(
        folder,
        Decoder(blueprint, plugins.registry),
        plugins=plugins,
        tokenizer=tokenizer,
        extra={"chat": {"thinking": True}},
    )
    return folder
