"""How many directions a model changes in when it learns a new kind of text: with all weights, and with thin adapters.

    python benchmarks/layers/lora.py TEXTS --new FOLDER [--seconds 60] [--steps 150] [--rank 8] [--seeds 0,1,2]
                                     [--svg FILE] [--output FILE]

A small dense model reads prose (TEXTS: .txt files or folders), then texts of another kind (--new), once with all
weights and once with `lora`. Printed: bits per byte of held-out text of both kinds, before and after; the weights that
learn; and of the change of every matrix of the blocks the share of its squared singular values that its largest `rank`
hold, the mean over matrices. `--svg` draws the singular values of the last block's `down` in the first seed, as shares
of the largest.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from domains import bits_per_byte, read_texts
from drawing import draw_lines
from prose import make_parser
from results import write_results
from torch import Tensor

from luna_kernel.model.checkpoint import OpenedModel, open_model
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

DIMS = {"d_model": 128, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "ffn_dim": 256}
HELD, PIECES = 60, 1500
"""Pieces of 600 characters of each kind, held out and learnt from."""
Matrices = dict[str, Tensor]


def learnt(fields: dict[str, Any], pieces: Sequence[str], folder: Path) -> OpenedModel:
    """The model after a run over `pieces`."""
    data = folder.with_suffix(".txt")
    data.write_text("\n\n".join(pieces), encoding="utf-8")
    shared = {"precision": "fp32", "preflight": False, "checkpoint_every": 0, "valid_every": 0, "valid_fraction": 0.0}
    shared |= {"sequence_length": 128, "batch_size": 8, "objective": {"name": "lm"}, "train_data": (str(data),)}
    config = TrainConfig.model_validate(shared | fields | {"run_dir": folder})
    return open_model(train_model(config, plugins=load_plugins("lora")).model_dir, selection="lora")


def matrices(opened: OpenedModel) -> Matrices:
    """The matrices of the blocks by name."""
    found = opened.model.state_dict().items()
    return {name: value.float() for name, value in found if name.startswith("blocks.") and value.ndim == 2}


def spectra(before: Matrices, after: Matrices) -> Matrices:
    """Of each matrix the singular values of its change, falling."""
    return {name: torch.linalg.svdvals(after[name] - value) for name, value in before.items()}


def run_seed(seed: int, given: Any, kinds: tuple[dict[str, list[str]], dict[str, list[str]]], folder: Path) -> Any:
    """The figures of one seed, and the singular values to draw."""
    train, valid = kinds
    new = {"preset": "mini", "dims": {**DIMS, "max_positions": 256}}
    first = {"new_model": new, "vocab_size": 2048, "max_seconds": given.seconds, "learning_rate": 3e-3}
    base = learnt(first | {"seed": seed, "optimizer": {"name": "muon"}}, train["old"], folder / "base")
    second = {
        "model": folder / "base" / "model",
        "seed": seed,
        "max_steps": given.steps,
        "learning_rate": given.learning_rate,
    }
    ways: dict[str, dict[str, Any]] = {"all weights": {}, "lora": {"adapter": {"name": "lora", "rank": given.rank}}}
    figures = {"before": {name: bits_per_byte(base, texts, None) for name, texts in valid.items()}}
    drawn = {}
    for way, fields in ways.items():
        after = learnt(second | fields, train["new"], folder / way.replace(" ", "-"))
        values = spectra(matrices(base), matrices(after))
        shares = [float(s[: given.rank].square().sum() / s.square().sum().clamp_min(1e-30)) for s in values.values()]
        figures[way] = {name: bits_per_byte(after, texts, None) for name, texts in valid.items()}
        figures[way] |= {"share": statistics.fmean(shares)}
        last = values[[name for name in values if "down" in name][-1]]
        drawn[way] = [(float(n), float(value / last[0])) for n, value in enumerate(last[:128], 1)]
    return figures, drawn


def main() -> None:
    """Run it."""
    parser = make_parser(__doc__ or "", seconds=60.0, learning_rate=1e-3, valid_samples=0)
    parser.add_argument("--new", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--svg", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    kinds = read_texts({"old": given.texts[0], "new": given.new}, PIECES, HELD)
    runs: list[Any] = []
    lines: dict[str, Any] = {}
    for seed in map(int, given.seeds.split(",")):
        with tempfile.TemporaryDirectory() as name:
            figures, drawn = run_seed(seed, given, kinds, Path(name))
        runs.append(figures)
        lines = lines or drawn
        print(f"seed {seed}: {figures}", flush=True)
    print(f"\n{'':14}{'old texts':>26}{'new texts':>26}{f'share of {given.rank} directions':>26}")
    for way in runs[0]:
        row = ""
        for key in ("old", "new", "share"):
            found = [run[way][key] for run in runs if key in run[way]]
            row += f"{f'{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})' if found else '-':>26}"
        print(f"{way:14}{row}")
    write_results(given, {"runs": runs})
    if given.svg:
        title, across = "What was learnt, direction by direction", "singular value, largest first"
        draw_lines(given.svg, title, across, "share of the largest", lines, floor=1e-6)


if __name__ == "__main__":
    main()
