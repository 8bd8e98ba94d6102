"""`driver.py` with one scenario more: saving a model over another, and opening what is there."""

import sys
import warnings
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH leaves the script's folder out
import driver

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import open_model, save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
PLUGINS = load_plugins("none")
DIMS = {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 16}
BLUEPRINT = Blueprint.from_preset("mini", PLUGINS.registry, vocab_size=64, dims=DIMS)
MODEL = Decoder(BLUEPRINT, PLUGINS.registry)
VALUES = {"old": 1.0, "new": 2.0}


class Model(driver.Scenario):
    def save(self, which: str) -> None:
        with torch.no_grad():
            for weight in MODEL.parameters():
                weight.fill_(VALUES[which])
        save_model(self.root / "model", MODEL, plugins=PLUGINS, extra={"training": {"which": which}})

    def prepare(self) -> None:
        self.save("old")

    def act(self) -> None:
        self.save("new")

    def recover(self) -> None:
        """`open_model` does it itself."""

    def read(self) -> str:
        opened = open_model(self.root / "model", selection="none")
        which = opened.manifest.training["which"]
        whole = all((weight == VALUES[which]).all() for weight in opened.model.parameters())
        return which if whole else "mixed"


driver.SCENARIOS["Model"] = Model

if __name__ == "__main__":
    driver.main()
