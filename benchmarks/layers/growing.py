"""A model that grows beside the large one trained from the start, at equal seconds, on prose.

    python benchmarks/layers/growing.py TEXTS [--seconds 20] [--seeds 0,1,2] [--contenders …] [--json FILE]

TEXTS: .txt files or folders of them; the last twentieth of each file is held out. Every contender has the same budget
of the processor's seconds of its one thread (measuring left out), the same batches, learning rate and schedule
(warm-up, level, down in the last fifth), and ends with the large model's shape, but for `small`, which stays small.
Contenders take turns seed by seed. Printed: bits per byte of held-out text at eighths of the budget, and the ratio to
`large` at the end, seed by seed, its median, lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luna_kernel.contracts.training import Callback
from luna_kernel.data.batches import Batches
from luna_kernel.data.token_store import Sample, TokenStore
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import Plugins, load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.engine import Engine
from luna_kernel.train.growth import GrowthRequest
from luna_kernel.train.loop import TrainRun, train
from luna_kernel.train.objectives import LanguageModeling
from luna_kernel.train.optimizers import make_optimizers

VOCAB, LENGTH, ROWS = 512, 64, 8
DIMS = {"d_model": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "max_positions": LENGTH, "init_std": 0.05}
LAYERS, FFN = 6, 192
POINTS = 8
"""How often a run is measured."""

Plan = tuple[dict[str, int], dict[str, Any] | None]
"""Sizes to begin with, and the grower."""

CONTENDERS: dict[str, Plan] = {
    "large": ({"num_layers": LAYERS, "ffn_dim": FFN}, None),
    "small": ({"num_layers": 2, "ffn_dim": FFN}, None),
    "depth": ({"num_layers": 2, "ffn_dim": FFN}, {"name": "depth", "after": (0, 0, 1, 1)}),
    "stack": ({"num_layers": 2, "ffn_dim": FFN}, {"name": "stack", "times": 3}),
    "width": ({"num_layers": LAYERS, "ffn_dim": 48}, {"name": "width", "ffn": 4}),
}


class Timed(TrainRun):
    """A run whose seconds are the processor's, without those that `Watch` spends on measuring."""

    begun = 0.0
    measuring = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training."""
        return time.process_time() - self.begun - self.measuring


class Watch(Callback):
    """Measures at equal shares of the budget, and asks for the growth when its share has come."""

    def __init__(self, grower: dict[str, Any] | None, share: float) -> None:
        super().__init__()
        self.grower, self.share = grower, share
        self.curve: list[float] = []

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Between steps."""
        if self.grower is not None and run.progress >= self.share:
            run.ask_growth(GrowthRequest(self.grower, warmup_steps=10))
            self.grower = None
        if run.progress >= (len(self.curve) + 1) / POINTS:
            assert isinstance(run, Timed)
            begin = time.process_time()
            found = run.evaluate() or {}
            run.measuring += time.process_time() - begin
            while run.progress >= (len(self.curve) + 1) / POINTS:  # a step may pass several marks
                self.curve.append(found["valid/bits_per_byte"])


def make_stores(texts: list[Path], folder: Path) -> tuple[Tokenizer, TokenStore, TokenStore]:
    """A tokenizer of the training text, the training store and the held-out one."""
    files = [file for path in texts for file in (sorted(path.rglob("*.txt")) if path.is_dir() else [path])]
    read = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    heads, tails = [t[: len(t) * 19 // 20] for t in read], [t[len(t) * 19 // 20 :] for t in read]
    tokenizer = Tokenizer.train(iter(heads), VOCAB)
    stores = []
    for name, parts in (("train", heads), ("valid", tails)):
        samples = [Sample(tokenizer.encode(part)) for part in parts if part.strip()]
        stores.append(TokenStore.build(folder / name, samples, vocab_size=tokenizer.vocab_size))
    return tokenizer, stores[0], stores[1]


def run_one(
    plan: Plan,
    seed: int,
    given: argparse.Namespace,
    plugins: Plugins,
    data: tuple[Tokenizer, TokenStore, TokenStore],
    folder: Path,
) -> dict[str, Any]:
    """One contender with one seed."""
    sizes, grower = plan
    tokenizer, text, held_out = data
    config = TrainConfig.model_validate(
        {"run_dir": folder, "train_data": ("-",), "batch_size": ROWS, "max_seconds": given.seconds, "seed": seed}
        | {"learning_rate": given.learning_rate, "checkpoint_every": 0, "valid_every": 0, "precision": "fp32"}
        | {"valid_samples": given.valid_samples}
    )
    registry = plugins.registry
    blueprint = Blueprint.from_preset("mini", registry, vocab_size=tokenizer.vocab_size, dims={**DIMS, **sizes})
    torch.manual_seed(seed)
    model = Decoder(blueprint, registry)
    watch = Watch(grower, given.grow_at)
    schedule = registry.get("schedule", "wsd")
    options: dict[str, Any] = {"pad_id": tokenizer.pad_id}
    run = Timed(
        config=config,
        folder=folder,
        model=model,
        objective=LanguageModeling(),
        optimizers=make_optimizers(model, config, registry),
        schedule=schedule.load()(schedule.make_config({})),
        batches=Batches(text, ROWS, LENGTH, seed=seed, **options),
        engine=Engine(torch.device("cpu"), None),
        plugins=plugins,
        valid=Batches(held_out, ROWS, LENGTH, shuffle=False, **options),
        byte_lengths=np.asarray(tokenizer.byte_lengths(), dtype=np.int64),
        callbacks=[watch],
    )
    run.begun = time.process_time()
    train(run)
    run.evaluated_step = -1
    end = (run.evaluate() or {})["valid/bits_per_byte"]
    return {
        "curve": [*watch.curve[: POINTS - 1], end],
        "steps": run.step,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "growths": [growth.to_json() for growth in run.growths],
    }


def print_results(results: Mapping[str, list[dict[str, Any]]], seconds: float) -> None:
    """The curves, medians over seeds, and the ratios at the end."""
    width = max(map(len, results))
    marks = "".join(f"{seconds * (i + 1) / POINTS:7.1f}" for i in range(POINTS))
    print(f"\nbits per byte of held-out text, median of the seeds, after so many seconds\n  {'':{width}}{marks}")
    for name, runs in results.items():
        curve = [statistics.median(run["curve"][i] for run in runs) for i in range(POINTS)]
        print(f"  {name:{width}}" + "".join(f"{value:7.3f}" for value in curve))
    print("\nat the end, to `large`: median (lowest to highest) over the seeds")
    for name, runs in results.items():
        ratios = [run["curve"][-1] / base["curve"][-1] for run, base in zip(runs, results["large"], strict=True)]
        steps = statistics.median(run["steps"] for run in runs)
        grown = [growth for run in runs for growth in run["growths"]]
        after = f", grown after step {grown[0]['step']} of the first seed" if grown else ""
        low, high = min(ratios), max(ratios)
        size = f"{runs[0]['parameters']:,} parameters"
        ratio = f"x{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
        print(f"  {name:{width}}  {ratio}  {steps:.0f} steps, {size}{after}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--grow-at", type=float, default=0.4, help="share of the budget after which to grow")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--valid-samples", type=int, default=160)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plugins = load_plugins("growing")
    names = list(dict.fromkeys(["large", *given.contenders.split(",")]))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_stores(given.texts, folder)
        print(f"{data[1].num_tokens:,} training tokens, {data[2].num_tokens:,} held out; torch {torch.__version__}")
        for seed in map(int, given.seeds.split(",")):
            for contender in names:
                found = run_one(CONTENDERS[contender], seed, given, plugins, data, folder / f"{contender}-{seed}")
                results[contender].append(found)
                print(f"seed {seed}  {contender:8} {found['curve'][-1]:.4f}  {found['steps']} steps", flush=True)
    print_results(results, given.seconds)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
