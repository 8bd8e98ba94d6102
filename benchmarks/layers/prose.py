"""Training on prose by the processor's clock: what the benchmarks of quality share.

Seconds are those of the process's own thread, measuring left out, so that other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import add_output

from luna_kernel.base.freed_memory import keep_freed_memory
from luna_kernel.contracts.training import Callback
from luna_kernel.data.batches import Batches
from luna_kernel.data.token_store import Sample, TokenStore
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.linear import float32_by_onednn
from luna_kernel.plugins import Plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.engine import Engine
from luna_kernel.train.loop import TrainRun, train
from luna_kernel.train.objectives import LanguageModeling
from luna_kernel.train.optimizers import make_optimizers

Prose = tuple[Tokenizer, TokenStore, TokenStore]
"""A tokenizer of the training text, the training store and the held-out one."""


class Timed(TrainRun):
    """A run whose seconds are the processor's, without those spent on measuring."""

    begun = 0.0
    measuring = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training."""
        return time.process_time() - self.begun - self.measuring

    def measure(self) -> float:
        """Bits per byte of the held-out text, off the clock."""
        begin = time.process_time()
        self.evaluated_step = -1
        found = self.evaluate() or {}
        self.measuring += time.process_time() - begin
        return found["valid/bits_per_byte"]


def read_prose(texts: Sequence[Path], folder: Path, vocab_size: int) -> Prose:
    """Files, or folders of .txt files; the last twentieth of each file is held out."""
    files = [file for path in texts for file in (sorted(path.rglob("*.txt")) if path.is_dir() else [path])]
    read = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    heads, tails = [t[: len(t) * 19 // 20] for t in read], [t[len(t) * 19 // 20 :] for t in read]
    tokenizer = Tokenizer.train(iter(heads), vocab_size)
    stores = []
    for name, parts in (("train", heads), ("valid", tails)):
        samples = [Sample(tokenizer.encode(part)) for part in parts if part.strip()]
        stores.append(TokenStore.build(folder / name, samples, vocab_size=tokenizer.vocab_size))
    return tokenizer, stores[0], stores[1]


def make_run(
    blueprint: Blueprint,
    plugins: Plugins,
    prose: Prose,
    folder: Path,
    callbacks: list[Callback],
    schedule: Mapping[str, Any],
    **fields: Any,
) -> Timed:
    """A run of the one loop, in float32 unless `precision` says bf16.

    Args:
        schedule: fields of the schedule `wsd`.
        fields: of `TrainConfig`: seed, batch_size, sequence_length, learning_rate, valid_samples, what ends the run.
    """
    tokenizer, text, held_out = prose
    given = {"run_dir": folder, "train_data": ("-",), "checkpoint_every": 0, "valid_every": 0, "precision": "fp32"}
    config = TrainConfig.model_validate(given | fields)
    registry = plugins.registry
    torch.manual_seed(config.seed)
    model = Decoder(blueprint, registry)
    component = registry.get("schedule", "wsd")
    rows, length = config.batch_size, config.sequence_length
    run = Timed(
        config=config,
        folder=folder,
        model=model,
        objective=LanguageModeling(),
        optimizers=make_optimizers(model, config, registry),
        schedule=component.load()(component.make_config(schedule)),
        batches=Batches(text, rows, length, seed=config.seed, pad_id=tokenizer.pad_id),
        engine=Engine(torch.device("cpu"), torch.bfloat16 if config.precision == "bf16" else None),
        plugins=plugins,
        valid=Batches(held_out, rows, length, shuffle=False, pad_id=tokenizer.pad_id),
        byte_lengths=np.asarray(tokenizer.byte_lengths(), dtype=np.int64),
        callbacks=callbacks,
    )
    run.begun = time.process_time()
    return run


def train_as_luna(run: TrainRun) -> None:
    """Train with what `luna train` sets around its steps: freed memory is kept, float32 products go by oneDNN."""
    with keep_freed_memory(), float32_by_onednn():
        train(run)


def make_parser(
    description: str, *, seconds: float, learning_rate: float, valid_samples: int
) -> argparse.ArgumentParser:
    """The options that these benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path, help=".txt files, or folders of them")
    parser.add_argument("--seconds", type=float, default=seconds, help="of one thread, for each run")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--valid-samples", type=int, default=valid_samples)
    add_output(parser)
    return parser
