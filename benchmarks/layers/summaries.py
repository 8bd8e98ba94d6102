"""How well the probes of MoC's low-rank meeting foretell what the experts say, on held-out prose.

    python benchmarks/layers/summaries.py TEXTS [--seconds 60] [--seeds 0,1,2] [--weights 0.01,0.1,1] [--output FILE]

The model is `moc low rank` of `quality.py`, trained with each weight of the calibration loss. Printed are, of held-out
text, R² of the probes (0: no better than the mean of what is said; 1: exact) and bits per byte, medians of the seeds
with the lowest and highest.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from prose import Prose, make_parser, make_run, read_prose, train_as_luna
from quality import CONTENDERS, DIMS, LENGTH, ROWS, VOCAB
from results import write_results

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.plugins import load_plugins


def measure(weight: float, seed: int, given: Any, prose: Prose, folder: Path) -> dict[str, float]:
    """R² and bits per byte of one run."""
    plugins = load_plugins("moc,moe")
    places, configs = CONTENDERS["moc low rank"]
    blueprint = Blueprint.from_preset(
        "mini", plugins.registry, vocab_size=prose[0].vocab_size, place=places,
        configs={**configs, "moc": {"calibration_weight": weight}}, dims={**DIMS, "max_positions": LENGTH},
    )  # fmt: skip
    run = make_run(
        blueprint, plugins, prose, folder, [], {"warmup_steps": 20, "decay_share": 0.0}, seed=seed, batch_size=ROWS,
        sequence_length=LENGTH, learning_rate=given.learning_rate, optimizer={"name": "muon"},
        valid_samples=given.valid_samples, max_seconds=given.seconds,
    )  # fmt: skip
    train_as_luna(run)
    run.evaluated_step = -1
    found = run.evaluate() or {}
    fits = [value for name, value in found.items() if name.startswith("valid/moc/calibration_r2")]
    return {
        "weight": weight,
        "seed": seed,
        "r2": statistics.fmean(fits),
        "bits_per_byte": found["valid/bits_per_byte"],
        "tokens": float(run.tokens),
    }


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):7.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Run it."""
    parser = make_parser(__doc__ or "", seconds=60.0, learning_rate=3e-3, valid_samples=64)
    parser.add_argument("--weights", default="0.001,0.01,0.1,1")
    given = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        prose = read_prose(given.texts, Path(folder), VOCAB)
        for weight in map(float, given.weights.split(",")):
            for seed in map(int, given.seeds.split(",")):
                runs.append(measure(weight, seed, given, prose, Path(folder, f"{weight}-{seed}")))
                print(json.dumps(runs[-1]), flush=True)
    print(f"\n{'weight':>8}{'R² of the probes':>28}{'bits per byte':>28}")
    for weight in dict.fromkeys(run["weight"] for run in runs):
        mine = [run for run in runs if run["weight"] == weight]
        cells = [spread([run[key] for run in mine]) for key in ("r2", "bits_per_byte")]
        print(f"{weight:8g}" + "".join(f"{cell:>28}" for cell in cells))
    write_results(given, {"runs": runs})


if __name__ == "__main__":
    main()
