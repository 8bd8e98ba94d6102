"""A model that grows beside the large one trained from the start, at equal seconds, on prose.

    python benchmarks/layers/growing.py TEXTS [--seconds 20] [--seeds 0,1,2] [--small 2] [--large 6] [--grow-at 0.4]
                                        [--contenders large,small,stack,stack@0.7] [--svg FILE] [--output FILE]

TEXTS: .txt files or folders of them; the last twentieth of each file is held out. Every contender has the same budget
of the processor's seconds of its one thread (measuring left out), the same batches, learning rate and schedule
(warm-up, level, down in the last fifth), and ends with the large model's shape, but for `small`, which stays small.
`NAME@SHARE` has that share of the budget and the whole schedule within it: if it ends where `large` ends, growing
saves the rest. Contenders take turns seed by seed. Printed: bits per byte of held-out text at equal shares of the
budget, the ratio to `large` at the end, seed by seed, its median, lowest and highest, and after which share of the
budget a contender was where `large` ended. `--svg` draws the curves and, dashed, the moment of growth.
"""

from __future__ import annotations

import argparse
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
from luna_kernel.plugins import Plugins, load_plugins
from luna_kernel.train.growth import GrowthRequest
from luna_kernel.train.loop import TrainRun

VOCAB, ROWS = 512, 8
DIMS = {"d_model": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "init_std": 0.05}
FFN = 192
POINTS = 8
"""How often a run is measured."""

Plan = tuple[dict[str, int], dict[str, Any] | None]
"""Sizes to begin with, and the grower."""


def make_contenders(small: int, large: int) -> dict[str, Plan]:
    """All plans by name, between `small` and `large` blocks."""
    few, many = {"num_layers": small, "ffn_dim": FFN}, {"num_layers": large, "ffn_dim": FFN}
    after = tuple(block for block in range(small) for _ in range(large // small - 1))
    return {
        "large": (many, None),
        "small": (few, None),
        "depth": (few, {"name": "depth", "after": after}),
        "stack": (few, {"name": "stack", "times": large // small}),
        "width": ({"num_layers": large, "ffn_dim": FFN // 4}, {"name": "width", "ffn": 4}),
    }


class Watch(Callback):
    """Measures at equal shares of the budget, and asks for the growth when its share has come."""

    def __init__(self, grower: dict[str, Any] | None, share: float) -> None:
        super().__init__()
        self.grower, self.share = grower, share
        self.curve: list[float] = []
        self.grown_at: float | None = None

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Between steps."""
        if self.grower is not None and run.progress >= self.share:
            run.ask_growth(GrowthRequest(self.grower, warmup_steps=10))
            self.grown_at = run.progress
            self.grower = None
        if run.progress >= (len(self.curve) + 1) / POINTS:
            assert isinstance(run, Timed)
            found = run.measure()
            while run.progress >= (len(self.curve) + 1) / POINTS:  # a step may pass several marks
                self.curve.append(found)


def run_one(
    plan: Plan, share: float, seed: int, given: argparse.Namespace, plugins: Plugins, prose: Prose, folder: Path
) -> dict[str, Any]:
    """One contender with one seed and that share of the seconds."""
    sizes, grower = plan
    dims = {**DIMS, **sizes, "max_positions": given.length}
    blueprint = Blueprint.from_preset("mini", plugins.registry, vocab_size=prose[0].vocab_size, dims=dims)
    watch = Watch(grower, given.grow_at)
    run = make_run(
        blueprint, plugins, prose, folder, [watch], {}, seed=seed, batch_size=ROWS, sequence_length=given.length,
        learning_rate=given.learning_rate, valid_samples=given.valid_samples, max_seconds=given.seconds * share,
    )  # fmt: skip
    train_as_luna(run)
    end = run.measure()
    return {
        "share": share,
        "curve": [*watch.curve[: POINTS - 1], end],
        "steps": run.step,
        "grown_at": watch.grown_at,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "growths": [growth.to_json() for growth in run.growths],
    }


def there(curve: list[float], goal: float) -> float | None:
    """The share of its own budget after which a curve was first at `goal`, between two measurements on a line."""
    for i, value in enumerate(curve):
        if value <= goal:
            past = 1.0 if not i or curve[i - 1] == value else (curve[i - 1] - goal) / (curve[i - 1] - value)
            return (i + past) / len(curve)
    return None


def compare(runs: list[dict[str, Any]], large: list[dict[str, Any]]) -> dict[str, Any]:
    """A contender's runs beside those of `large`, seed by seed."""
    pairs = list(zip(runs, large, strict=True))
    reached = [there(run["curve"], base["curve"][-1]) for run, base in pairs]
    return {
        "ratios": [run["curve"][-1] / base["curve"][-1] for run, base in pairs],
        "there": [None if at is None else at * run["share"] for at, (run, _) in zip(reached, pairs, strict=True)],
    }


def print_results(results: Mapping[str, list[dict[str, Any]]], seconds: float) -> None:
    """The curves, medians over seeds, and the ratios at the end."""
    width = max(map(len, results))
    marks = "".join(f"{seconds * (i + 1) / POINTS:7.1f}" for i in range(POINTS))
    print("\nbits per byte of held-out text, median of the seeds, after so many seconds (or that share of them)")
    print(f"  {'':{width}}{marks}")
    for name, runs in results.items():
        curve = [statistics.median(run["curve"][i] for run in runs) for i in range(POINTS)]
        print(f"  {name:{width}}" + "".join(f"{value:7.3f}" for value in curve))
    print("\nat the end, to `large`: median (lowest to highest) over the seeds")
    for name, runs in results.items():
        beside = compare(runs, results["large"])
        ratios, reached = beside["ratios"], [at for at in beside["there"] if at is not None]
        steps = statistics.median(run["steps"] for run in runs)
        grown = [growth for run in runs for growth in run["growths"]]
        after = f", grown after step {grown[0]['step']} of the first seed" if grown else ""
        size = f"{runs[0]['parameters']:,} parameters"
        ratio = f"x{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"  {name:{width}}  {ratio}  {steps:.0f} steps, {size}{after}")
        if reached:
            shares = ", ".join(f"{at:.2f}" for at in reached)
            print(f"  {'':{width}}  where `large` ended in {len(reached)} of {len(runs)} seeds, after {shares} of it")


def draw(results: Mapping[str, list[dict[str, Any]]], seconds: float, path: Path) -> None:
    """The curves, medians of the seeds, and when the first of them grew."""
    lines = {
        name: [
            (seconds * runs[0]["share"] * (i + 1) / POINTS, statistics.median(run["curve"][i] for run in runs))
            for i in range(POINTS)
        ]
        for name, runs in results.items()
    }
    moments = [run["grown_at"] for runs in results.values() for run in runs if run["grown_at"] and run["share"] == 1]
    marks = {"growth": seconds * min(moments)} if moments else {}
    title = "Growing while learning: held-out text"
    draw_lines(path, title, "seconds of one thread", "bits per byte", lines, log=(False, False), marks=marks)


def main() -> None:
    """Run it."""
    parser = make_parser(__doc__ or "", seconds=20.0, learning_rate=3e-3, valid_samples=160)
    parser.add_argument("--contenders", default="large,small,depth,stack,width")
    parser.add_argument("--small", type=int, default=2, help="blocks to begin with")
    parser.add_argument("--large", type=int, default=6, help="blocks to end with, a multiple of `--small`")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--grow-at", type=float, default=0.4, help="share of the budget after which to grow")
    parser.add_argument("--svg", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plugins = load_plugins("growing")
    plans = make_contenders(given.small, given.large)
    names = list(dict.fromkeys(["large", *given.contenders.split(",")]))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = read_prose(given.texts, folder, VOCAB)
        print(f"{data[1].num_tokens:,} training tokens, {data[2].num_tokens:,} held out; torch {torch.__version__}")
        for seed in map(int, given.seeds.split(",")):
            for contender in names:
                plan, _, share = contender.partition("@")
                part = folder / f"{contender}-{seed}"
                found = run_one(plans[plan], float(share or 1), seed, given, plugins, data, part)
                results[contender].append(found)
                print(f"seed {seed}  {contender:9} {found['curve'][-1]:.4f}  {found['steps']} steps", flush=True)
            beside = {name: compare(runs, results["large"]) for name, runs in results.items()}
            write_results(given, {"contenders": results, "beside large": beside})  # what is there, seed by seed
    print_results(results, given.seconds)
    if given.svg:
        draw(results, given.seconds, given.svg)


if __name__ == "__main__":
    main()
