"""What each layer is worth: models of about 2 M active parameters on prose, against tokens, operations and seconds.

    python benchmarks/layers/quality.py TEXTS [--seconds 90] [--seeds 0,1,2] [--output FILE] [--figures FOLDER]
    python benchmarks/layers/quality.py --from FILE [FILE …] --figures FOLDER

All models have 4 blocks of width 192 and differ in one thing, named in `CONTENDERS`. They see the same batches in the
same order, at one learning rate after a warm-up, never lowered, so that a curve may be read at any of its points. A
run ends when its processor seconds are used. `--from` prints and draws what earlier calls measured, for example one
seed each. Printed: bits per byte of held-out text at equal tokens, at equal forward and backward operations (three
times the blueprint table's), at equal seconds; each the median of the seeds, lowest and highest beside it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from drawing import draw_lines
from prose import Prose, Timed, make_parser, make_run, read_prose, train_as_luna
from results import write_results

from luna_kernel.contracts.training import Callback
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.plugins import load_plugins
from luna_kernel.train.loop import TrainRun

VOCAB, LENGTH, ROWS = 2048, 256, 4
DIMS = {"num_layers": 4, "d_model": 192, "num_heads": 6, "num_kv_heads": 6, "head_dim": 32, "ffn_dim": 512}
POINTS = 12
"""How often a run is measured, at equal shares of its seconds."""

CONTENDERS: dict[str, tuple[dict[str, str], dict[str, dict[str, Any]]]] = {
    "dense": ({}, {}),
    "moe": ({"moe": "every 2nd block"}, {}),
    "moc low rank": ({"moc": "every 2nd block"}, {}),
    "moc full": ({"moc": "every 2nd block"}, {"moc": {"context": "full", "calibration_weight": 0}}),
    "chain": ({"moc": "every 2nd block"}, {"moc": {"context": "none", "fusion": "chain"}}),
    "ssm": ({"ssm": "every block"}, {}),
    "hybrid": ({"hybrid": "every block"}, {}),
    "ssm 1:1": ({"ssm": "1:1"}, {}),
    "ssm 3:1": ({"ssm": "3:1"}, {}),
}
"""Places and configurations of what differs from the dense model; `hybrid` runs both mixers in every block."""

AXES = {"tokens": "tokens", "operations": "operations, forward and backward", "seconds": "seconds of one thread"}


class Curve(Callback):
    """Measures at equal shares of the budget."""

    def __init__(self, flops_per_token: float) -> None:
        super().__init__()
        self.flops_per_token = flops_per_token
        self.points: list[dict[str, float]] = []

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """After each step."""
        assert isinstance(run, Timed)
        if run.progress >= (len(self.points) + 1) / POINTS:
            seconds, operations = run.elapsed, 3 * self.flops_per_token * run.tokens
            point = {"tokens": float(run.tokens), "operations": operations, "seconds": seconds}
            self.points.append(point | {"bits_per_byte": run.measure()})


def run_one(name: str, seed: int, given: Any, prose: Prose, folder: Path) -> dict[str, Any]:
    """One contender with one seed."""
    places, configs = CONTENDERS[name]
    plugins = load_plugins(",".join(["moc", "moe", "ssm"]))
    blueprint = Blueprint.from_preset(
        "mini", plugins.registry, vocab_size=prose[0].vocab_size, place=places, configs=configs,
        dims={**DIMS, "max_positions": LENGTH},
    )  # fmt: skip
    table = blueprint.table(plugins.registry)
    curve = Curve(table.flops)
    run = make_run(
        blueprint, plugins, prose, folder, [curve], {"warmup_steps": 20, "decay_share": 0.0},
        seed=seed, batch_size=ROWS, sequence_length=LENGTH, learning_rate=given.learning_rate,
        precision=given.precision, optimizer={"name": given.optimizer},
        valid_samples=given.valid_samples, max_seconds=given.seconds,
    )  # fmt: skip
    train_as_luna(run)
    return {"name": name, "seed": seed, "parameters": table.parameters, "flops": table.flops, "points": curve.points}


def value_at(points: list[dict[str, float]], axis: str, x: float) -> float:
    """Bits per byte where `axis` is x, between two measurements on a line; outside of them, the nearest."""
    before = points[0]
    for after in points:
        if after[axis] >= x:
            span = after[axis] - before[axis]
            share = (x - before[axis]) / span if span > 0 else 1.0
            return before["bits_per_byte"] + max(0.0, share) * (after["bits_per_byte"] - before["bits_per_byte"])
        before = after
    return before["bits_per_byte"]


def compare(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Put what each run had `at_equal` tokens, operations and seconds into it: at the last that all of them reached."""
    ends: dict[str, float] = {axis: min(run["points"][-1][axis] for run in runs) for axis in AXES}
    for run in runs:
        run["at_equal"] = {axis: value_at(run["points"], axis, end) for axis, end in ends.items()}
    return ends


def print_results(runs: list[dict[str, Any]], ends: dict[str, float]) -> None:
    """The table."""
    names = [name for name in CONTENDERS if any(run["name"] == name for run in runs)]
    head = "".join(f"{f'{axis} {ends[axis]:.3g}':>28}" for axis in AXES)
    print(f"\nbits per byte of held-out text at equal …\n{'':14}{'M params':>9}{'MFLOP/token':>12}{head}")
    for name in names:
        mine = [run for run in runs if run["name"] == name]
        row = f"{name:14}{mine[0]['parameters'] / 1e6:9.2f}{mine[0]['flops'] / 1e6:12.2f}"
        for axis in ends:
            found = sorted(run["at_equal"][axis] for run in mine)
            row += f"{f'{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})':>28}"
        print(row)


def draw(runs: list[dict[str, Any]], folder: Path) -> None:
    """One figure for each axis, the median of the seeds."""
    for axis, label in AXES.items():
        lines = {}
        for name in CONTENDERS:
            mine = [run["points"] for run in runs if run["name"] == name]
            if mine:
                lines[name] = [
                    (statistics.median(p[axis] for p in at), statistics.median(p["bits_per_byte"] for p in at))
                    for at in zip(*mine, strict=False)
                ]
        draw_lines(folder / f"quality-{axis}.svg", f"held-out prose against {axis}", label, "bits per byte", lines)


def main() -> None:
    """Run it."""
    parser = make_parser(__doc__ or "", seconds=90.0, learning_rate=3e-3, valid_samples=64)
    parser.add_argument("--from", dest="earlier", action="store_true", help="TEXTS are files that --output wrote")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--optimizer", default="muon", choices=["muon", "adamw"])
    given = parser.parse_args()
    if given.earlier:
        parts = [json.loads(file.read_text(encoding="utf-8")) for file in given.texts]
        runs = [run for part in parts for run in part["runs"]]
        given.seconds = parts[0]["options"]["seconds"]
        given.seeds = ",".join(map(str, sorted({run["seed"] for run in runs})))
    else:
        torch.set_num_threads(1)
        runs = []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prose = read_prose(given.texts, folder, VOCAB)
            print(
                f"{prose[1].num_tokens:,} training tokens, {prose[2].num_tokens:,} held out; torch {torch.__version__}"
            )
            for seed in map(int, given.seeds.split(",")):
                for contender in given.contenders.split(","):
                    runs.append(run_one(contender, seed, given, prose, folder / f"{contender}-{seed}"))
                    last = runs[-1]["points"][-1]
                    text = f"{last['bits_per_byte']:.4f}  {last['tokens']:,.0f} tokens  {last['seconds']:.1f} s"
                    print(f"seed {seed}  {contender:14} {text}", flush=True)
    print_results(runs, compare(runs))
    write_results(given, {"runs": runs})
    if given.figures:
        draw(runs, given.figures)


if __name__ == "__main__":
    main()
