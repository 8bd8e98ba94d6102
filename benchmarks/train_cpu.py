"""Training speed and peak memory of Luna's dense decoder beside litgpt and the HF Trainer, on this machine, in one run.

    pip install litgpt lightning transformers accelerate
    python benchmarks/train_cpu.py [--modes bf16-eager,…] [--rounds 5] [--steps 4] [--json FILE]

One model for all: d 384, 6 layers, 6 heads, SwiGLU 1024, RMSNorm, RoPE, tied head, vocabulary 8192 (13.8 M
parameters); batch 8 × 256 tokens, fused AdamW, clipping at 1. Each contender is a process of its own that waits for
its turn; turns go A B C A B C …, so whatever else the machine does falls on all alike. Ratios are of neighbouring
turns; figures are medians. Each one goes through its own training code: Luna's loop and token store, litgpt's model
with Fabric as in its `pretrain`, `transformers.Trainer` with LlamaForCausalLM.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCAB, DIM, LAYERS, HEADS, FFN, LENGTH, ROWS = 8192, 384, 6, 6, 1024, 256, 8
MODES = ("bf16-eager", "fp32-eager", "bf16-compiled", "fp32-compiled")
CONTENDERS = {"luna": "luna-kernel", "litgpt": "litgpt", "hf": "transformers"}
NAMES = {"luna": "Luna", "litgpt": "litgpt", "hf": "HF Trainer"}


class Gate:
    """A contender's side: after each step, report when the turn is over and wait for the next."""

    def __init__(self) -> None:
        self.left = 0
        self.begin = 0.0
        self.out = sys.stdout

    def open(self) -> None:
        """Wait for the first turn."""
        self._wait()

    def step(self) -> None:
        """A step is done."""
        self.left -= 1
        if self.left == 0:
            seconds = time.perf_counter() - self.begin
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024}), file=self.out, flush=True)
            self._wait()

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line.strip():
            os._exit(0)
        self.left = int(line)
        self.begin = time.perf_counter()


def tokens() -> Any:
    """Some text's worth of ids, frequent ones small, (N,) int64."""
    import numpy as np

    rng = np.random.default_rng(0)
    return np.minimum(rng.zipf(1.3, size=400 * LENGTH), VOCAB - 1).astype(np.int64)


def luna(mode: str, gate: Gate) -> None:
    """Luna: token store, packed batches, the loop with its metrics file."""
    import torch

    from luna_kernel.contracts.training import Callback
    from luna_kernel.data.batches import Batches
    from luna_kernel.data.token_store import Sample, TokenStore
    from luna_kernel.model.blueprint import Blueprint
    from luna_kernel.model.decoder import Decoder
    from luna_kernel.plugins import load_plugins
    from luna_kernel.train.callbacks import JsonlTracker
    from luna_kernel.train.config import TrainConfig
    from luna_kernel.train.engine import Engine
    from luna_kernel.train.loop import TrainRun, train
    from luna_kernel.train.objectives import LanguageModeling
    from luna_kernel.train.optimizer_config import AdamWConfig
    from luna_kernel.train.optimizers import make_adamw, named_parameters
    from luna_kernel.train.schedules import WarmupStableDecay, WSDConfig

    class Turns(Callback):
        def start(self, run: TrainRun) -> None:
            gate.open()

        def step_end(self, run: TrainRun, metrics: Any) -> None:
            gate.step()

    precision, how = mode.split("-")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = TrainConfig.model_validate(
            {"run_dir": folder, "train_data": ("-",), "batch_size": ROWS, "max_steps": 1 << 30, "valid_every": 0}
        )
        registry = load_plugins("none").registry
        torch.manual_seed(0)
        model = Decoder(Blueprint.from_preset("tiny", registry, vocab_size=VOCAB), registry)
        assert sum(p.numel() for p in model.parameters()) == 13_767_552, sum(p.numel() for p in model.parameters())
        if how == "compiled":
            model.compile_blocks()
        store = TokenStore.build(folder / "store", [Sample(tokens().tolist())], vocab_size=VOCAB)
        run = TrainRun(
            config=config.model_copy(update={"checkpoint_every": 0}),
            folder=folder,
            model=model,
            objective=LanguageModeling(),
            optimizers=make_adamw(named_parameters(model), AdamWConfig(), learning_rate=1e-3),
            schedule=WarmupStableDecay(WSDConfig()),
            batches=Batches(store, ROWS, LENGTH),
            engine=Engine(torch.device("cpu"), torch.bfloat16 if precision == "bf16" else None),
            callbacks=[JsonlTracker(), Turns()],
        )
        train(run)


def litgpt(mode: str, gate: Gate) -> None:
    """litgpt's GPT with Fabric, the step as in its `pretrain`."""
    import lightning
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    precision, how = mode.split("-")
    fabric = lightning.Fabric(
        accelerator="cpu", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true"
    )
    fabric.seed_everything(0, verbose=False)
    config = Config(
        name="bench",
        block_size=LENGTH,
        padded_vocab_size=VOCAB,
        vocab_size=VOCAB,
        n_layer=LAYERS,
        n_head=HEADS,
        n_query_groups=HEADS,
        n_embd=DIM,
        head_size=DIM // HEADS,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=FFN,
    )
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    assert sum(p.numel() for p in model.parameters()) == 13_767_552
    if how == "compiled":
        model = torch.compile(model)
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), fused=True)
    optimizer = fabric.setup_optimizers(optimizer)
    data = torch.utils.data.DataLoader(Rows(), batch_size=ROWS)
    data = fabric.setup_dataloaders(data)
    gate.open()
    while True:
        for batch in data:
            logits = model(batch[:, :LENGTH].contiguous())
            loss = chunked_cross_entropy(logits, batch[:, 1:].contiguous(), chunk_size=0)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            gate.step()


def hf(mode: str, gate: Gate) -> None:
    """transformers.Trainer with its Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    precision, how = mode.split("-")
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=DIM,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == 13_767_552

    class Turns(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            gate.open()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            gate.step()

    class Inputs(torch.utils.data.Dataset[Any]):
        rows = Rows()

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            ids = self.rows[index][:LENGTH]
            return {"input_ids": ids, "labels": ids}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            max_steps=1 << 30,
            learning_rate=1e-3,
            weight_decay=0.1,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            use_cpu=True,
            bf16=precision == "bf16",
            torch_compile=how == "compiled",
            report_to=[],
            logging_steps=10,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        sys.stdout = sys.stderr  # its log lines; the gate has kept the real one
        Trainer(model=model, args=arguments, train_dataset=Inputs(), callbacks=[Turns()]).train()


class Rows:
    """(T + 1,) ids by number."""

    def __init__(self) -> None:
        import torch

        self.ids = torch.from_numpy(tokens())

    def __len__(self) -> int:
        return len(self.ids) // LENGTH - 1

    def __getitem__(self, index: int) -> Any:
        return self.ids[index * LENGTH : index * LENGTH + LENGTH + 1]


class Contender:
    """The driver's side of a process."""

    def __init__(self, name: str, mode: str) -> None:
        self.name = name
        command = [sys.executable, __file__, "--contender", name, "--mode", mode]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        environment = {"GOMP_SPINCOUNT": "5000", **os.environ}  # as `luna train`: threads that wait sleep soon
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.speeds: list[float] = []
        self.peak = 0.0

    def turn(self, steps: int, *, keep: bool = True) -> bool:
        """Let it do so many steps."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            self.errors.seek(0)
            print(f"{NAMES[self.name]} failed:\n{self.errors.read()[-2000:]}", file=sys.stderr)
            return False
        if keep:
            self.speeds.append(steps * ROWS * LENGTH / answer["seconds"])
        self.peak = answer["peak_mb"]
        return True

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def run_mode(mode: str, rounds: int, steps: int, names: list[str]) -> dict[str, Any]:
    """One mode's table."""
    contenders = [Contender(name, mode) for name in names]
    alive = [c for c in contenders if c.turn(3, keep=False)]
    for _ in range(rounds):
        alive = [c for c in alive if c.turn(steps)]
    for contender in contenders:
        contender.close()
    table: dict[str, Any] = {
        c.name: {"tokens_per_second": statistics.median(c.speeds), "turns": c.speeds, "peak_mb": c.peak} for c in alive
    }
    peers = [c for c in alive if c.name != "luna"]
    if "luna" in table and peers:
        fastest = max(peers, key=lambda c: statistics.median(c.speeds))
        ratios = [a / b for a, b in zip(table["luna"]["turns"], fastest.speeds, strict=True)]
        table["ratio"] = {"beside": fastest.name, "median": statistics.median(ratios), "turns": ratios}
        table["memory_ratio"] = table["luna"]["peak_mb"] / min(c.peak for c in peers)
    return table


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps per turn")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        {"luna": luna, "litgpt": litgpt, "hf": hf}[given.contender](given.mode, Gate())
        return
    import torch

    versions = {NAMES[name]: _version(package) for name, package in CONTENDERS.items()}
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; " + ", ".join(map(" ".join, versions.items()))
    )
    tables = {}
    for mode in given.modes.split(","):
        table = tables[mode] = run_mode(mode, given.rounds, given.steps, given.contenders.split(","))
        print(f"\n{mode}")
        for name in CONTENDERS:
            if name in table:
                row = table[name]
                low, high = min(row["turns"]), max(row["turns"])
                speed = f"{row['tokens_per_second']:8,.0f} tokens/s ({low:,.0f} to {high:,.0f})"
                print(f"  {NAMES[name]:12}{speed}   peak {row['peak_mb']:6,.0f} MB")
        if "ratio" in table:
            ratio = table["ratio"]
            low, high = min(ratio["turns"]), max(ratio["turns"])
            beside, memory = NAMES[ratio["beside"]], table["memory_ratio"]
            print(f"  Luna / {beside}: {ratio['median']:.2f} ({low:.2f} to {high:.2f}) × the speed")
            print(f"  Luna / least: {memory:.2f} × the peak memory")
    if given.json:
        given.json.write_text(json.dumps({"versions": versions, "modes": tables}, indent=2), encoding="utf-8")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
