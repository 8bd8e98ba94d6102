"""Training on a GPU in bfloat16: the layers beside their peers, and whole models of 126 M parameters.

    python benchmarks/gpu.py --layers --output FILE
    python benchmarks/gpu.py --models dense "hf llama" moe --compile --output FILE

`--layers`: forward and backward of one layer. `--models`: steps of the training loop itself, with packed batches,
fused AdamW and clipping; `hf llama` is transformers' model of the same shape with the same optimiser. Share: operations
of forward and backward (three times those forward, by Luna's count, a multiply-add is two) over what a product of two
8192 × 8192 matrices reaches on the same card in the same run. All of one table take turns, A B A B. `--device cpu
--rows 2 --preset mini --d 128 --tokens 128` tries the command itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "layers"))

from moc import Dense, PlainMoE, StraightforwardMoC, mixtral
from results import add_output, write_results
from ssm import mamba2

from luna_kernel.contracts.layers import Context, Dims, Layer
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.parts import make_parts
from luna_kernel.model.rope import RotaryPosition
from luna_kernel.model.rope_config import RotaryConfig
from luna_kernel.plugins import load_plugins

VOCAB, LENGTH = 32768, 1024
PLUGINS = "moe,moc,ssm"
MODELS: dict[str, tuple[dict[str, str], dict[str, dict[str, Any]]]] = {
    "dense": ({}, {}),
    "moe": ({"moe": "every block"}, {}),
    "moc": ({"moc": "every block"}, {}),
    "moc full": ({"moc": "every block"}, {"moc": {"context": "full"}}),
    "ssm": ({"ssm": "every block"}, {}),
    "hybrid": ({"hybrid": "every block"}, {}),
    "ssm 3:1": ({"ssm": "3:1"}, {}),
}
"""Places and configurations of what differs from the preset `base`."""
HF = "hf llama"


class Setup(argparse.Namespace):
    """What was asked for."""

    device: str
    rows: int
    preset: str
    compile: bool
    rounds: int
    only: list[str] | None


def wait() -> None:
    """Until the device has done what it was told to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(step: Callable[[], object], repeats: int) -> float:
    """Seconds of one step, over `repeats` in a row."""
    wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    wait()
    return (time.perf_counter() - begin) / repeats


def most_held(step: Callable[[], object]) -> int:
    """The most MiB above those before that a step holds on the GPU; 0 without one."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) >> 20


def take_turns(steps: Mapping[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of a step of each in each round, after two warm-up steps."""
    alive = dict(steps)
    for name, step in steps.items():
        begin = time.perf_counter()
        try:
            seconds_of(step, 2)
        except Exception as error:  # noqa: BLE001  the others are measured all the same
            print(f"{name} failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
            del alive[name]
            continue
        print(f"  {name}: ready after {time.perf_counter() - begin:.1f} s", flush=True)
    found: dict[str, list[float]] = {name: [] for name in alive}
    for _ in range(rounds):
        for name, step in alive.items():
            found[name].append(seconds_of(step, repeats))
    return found


def matrix_peak(device: str) -> float:
    """Operations per second of a product of 8192 × 8192 matrices in bfloat16; smaller ones on a processor."""
    size = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds_of(lambda: a @ b, 3)
    return 2 * size**3 / statistics.median(seconds_of(lambda: a @ b, 10) for _ in range(5))


# --- layers ----------------------------------------------------------------------------------------------------------


def layer_cases(d: int, tokens: int) -> dict[str, nn.Module]:
    """The layers to compare."""
    heads, hidden = d // 64, 3 * d
    dims = Dims(0, d, 8, heads, heads, 64, 2 * hidden, tokens)
    sparse = {"num_experts": 8, "top_k": 2, "expert_dim": hidden}
    registry = load_plugins(PLUGINS).registry

    def part(kind: str, name: str, **fields: Any) -> nn.Module:
        return make_parts(kind, kind, {"name": name, **fields}, dims, registry)[0].module

    cases: dict[str, nn.Module] = {
        "dense": Dense(d, 2 * hidden),
        "moe": part("ffn", "moe", **sparse),
        "moc low_rank+sum": part("ffn", "moc", context="low_rank", fusion="sum", **sparse),
        "moc": part("ffn", "moc", **sparse),
        "moc full": part("ffn", "moc", context="full", **sparse),
        "straightforward MoC": StraightforwardMoC(d, hidden, 8, 2, heads),
        "plain MoE": PlainMoE(d, hidden, 8, 2),
        "attention": part("mixer", "attention"),
        "ssm": part("mixer", "ssm"),
        "ssm, chunk 128": part("mixer", "ssm", chunk_size=128),
        "ssm, chunk 256": part("mixer", "ssm", chunk_size=256),
        "hybrid": part("mixer", "hybrid"),
        "ssm, expand 2, N 64": part("mixer", "ssm", expand=2, state_dim=64),
    }
    peers = {f"Mixtral {how}": mixtral(d, hidden, 8, 2, how) for how in ("eager", "grouped_mm")}
    peers["Mamba2, expand 2, N 64"] = mamba2(d, 256, 2, 64)
    return cases | {name: peer for name, peer in peers.items() if peer is not None}


def measure_layers(given: Setup, d: int, tokens: int) -> dict[str, Any]:
    """One table: milliseconds, ratios to the dense layer and to attention, most bytes held above those before."""
    device, rows = given.device, max(1, given.rows * LENGTH // tokens)
    x = torch.randn(rows, tokens, d, device=device, dtype=torch.bfloat16)
    positions = torch.arange(tokens, device=device).expand(rows, -1)
    position = RotaryPosition(RotaryConfig(), Dims(0, d, 8, d // 64, d // 64, 64, d, tokens)).to(device)
    layers = {
        name: layer.to(device).train()
        for name, layer in layer_cases(d, tokens).items()
        if given.only is None or name in given.only
    }

    def step(layer: nn.Module) -> Callable[[], None]:
        own = isinstance(layer, Layer)

        def forward(inputs: Tensor) -> Tensor:
            with torch.autocast(device, torch.bfloat16):
                if not own:
                    y = layer(inputs)
                    return y.float().square().mean()  # type: ignore[no-any-return]
                ctx = Context(positions, position=position)
                y = layer(inputs, ctx)
                return y.float().square().mean() + sum(ctx.losses.values())  # type: ignore[no-any-return]

        call = torch.compile(forward) if given.compile else forward

        def run() -> None:
            layer.zero_grad()
            call(x.clone().requires_grad_()).backward()

        return run

    title = f"d {d}, T {tokens}, B {rows}, bf16{', compiled' if given.compile else ''}, forward + backward"
    print(f"\n{title}", flush=True)
    steps = {name: step(layer) for name, layer in layers.items()}
    times = take_turns(steps, given.rounds, 10)
    table = {}
    for name, values in times.items():
        for layer in layers.values():
            layer.zero_grad()
        table[name] = {"ms": 1e3 * statistics.median(values), "MiB": most_held(steps[name])}
        for base in ("dense", "attention"):
            if base in times:
                ratios = sorted(a / b for a, b in zip(values, times[base], strict=True))
                table[name][base] = [statistics.median(ratios), ratios[0], ratios[-1]]
        print(f"  {name:24} " + json.dumps(table[name]), flush=True)
    return {"title": title, "rows": table}


# --- whole models ----------------------------------------------------------------------------------------------------


def luna_step(given: Setup, name: str, folder: Path) -> tuple[Callable[[], object], dict[str, float]]:
    """A step of Luna's loop, and the model's parameters and forward operations per token."""
    import numpy as np

    from luna_kernel.data.batches import Batches
    from luna_kernel.data.token_store import Sample, TokenStore
    from luna_kernel.train.config import TrainConfig
    from luna_kernel.train.engine import Engine
    from luna_kernel.train.loop import TrainRun
    from luna_kernel.train.objectives import LanguageModeling
    from luna_kernel.train.optimizer_config import AdamWConfig
    from luna_kernel.train.optimizers import make_adamw, named_parameters
    from luna_kernel.train.schedules import WarmupStableDecay, WSDConfig

    places, configs = MODELS[name]
    registry = load_plugins(PLUGINS).registry
    torch.manual_seed(0)
    dims = {"max_positions": LENGTH}
    blueprint = Blueprint.from_preset(
        given.preset, registry, vocab_size=VOCAB, place=places, configs=configs, dims=dims
    )
    table = blueprint.table(registry)
    model = Decoder(blueprint, registry).to(given.device)
    if given.compile:
        model.compile_blocks()
    ids = np.minimum(np.random.default_rng(0).zipf(1.3, size=200 * LENGTH), VOCAB - 1).tolist()
    store = TokenStore.build(folder / name.replace(" ", "-").replace(":", "-"), [Sample(ids)], vocab_size=VOCAB)
    config = TrainConfig.model_validate(
        {"run_dir": folder, "train_data": ("-",), "batch_size": given.rows, "max_steps": 1 << 30, "valid_every": 0}
    )
    run = TrainRun(
        config=config.model_copy(update={"log_every": 10}),
        folder=folder,
        model=model,
        objective=LanguageModeling(),
        optimizers=make_adamw(named_parameters(model), AdamWConfig(), learning_rate=1e-3),
        schedule=WarmupStableDecay(WSDConfig()),
        batches=Batches(store, given.rows, LENGTH),
        engine=Engine(torch.device(given.device), torch.bfloat16),
    )
    return run.train_step, {"parameters": float(table.parameters), "flops": table.flops}


def hf_step(given: Setup) -> Callable[[], object]:
    """A step of transformers' Llama of the preset's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    dims = Blueprint.from_preset(given.preset, load_plugins("none").registry, vocab_size=VOCAB).dims
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=dims.d_model, intermediate_size=dims.ffn_dim, num_hidden_layers=dims.num_layers,
        num_attention_heads=dims.num_heads, num_key_value_heads=dims.num_kv_heads, max_position_embeddings=LENGTH,
        tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).to(given.device)
    if given.compile:
        for block in model.model.layers:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    ids = torch.randint(VOCAB, (given.rows, LENGTH), device=given.device)

    def step() -> None:
        with torch.autocast(given.device, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def measure_models(given: Setup, names: list[str], peak: float) -> dict[str, Any]:
    """One table: tokens per second, share of the matrix peak, most bytes held."""
    compiled = ", compiled" if given.compile else ""
    title = f"preset {given.preset}, B {given.rows}, T {LENGTH}, bf16{compiled}, one training step"
    print(f"\n{title}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        steps: dict[str, Callable[[], object]] = {}
        facts: dict[str, dict[str, float]] = {}
        for name in names:
            if name == HF:
                steps[name], facts[name] = hf_step(given), facts.get("dense", {})
            else:
                steps[name], facts[name] = luna_step(given, name, Path(folder))
        times = take_turns(steps, given.rounds, 5)
        table = {}
        for name, values in times.items():
            speeds = sorted(given.rows * LENGTH / value for value in values)
            speed = statistics.median(speeds)
            table[name] = {
                **facts[name],
                "tokens_per_second": speed,
                "spread": [speeds[0], speeds[-1]],
                "share_of_peak": 3 * facts[name].get("flops", 0.0) * speed / peak,
                "MiB": most_held(steps[name]),
            }
            print(f"  {name:12} " + json.dumps(table[name]), flush=True)
    return {"title": title, "rows": table}


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--only", nargs="+", help="these layers only")
    parser.add_argument("--d", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--models", nargs="*", help=f"of {', '.join([*MODELS, HF])}")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    add_output(parser)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=16, help=f"texts of {LENGTH} tokens in a batch")
    parser.add_argument("--preset", default="base")
    given = parser.parse_args(namespace=Setup())
    peak = matrix_peak(given.device)
    card = torch.cuda.get_device_name() if given.device != "cpu" else "cpu"
    print(f"{card}, torch {torch.__version__}, {peak / 1e12:.0f} TFLOP/s of a large product in bf16", flush=True)
    result: dict[str, Any] = {"device": card, "peak": peak, "tables": []}

    def keep(table: dict[str, Any]) -> None:
        result["tables"].append(table)
        write_results(given, result)

    if given.layers:
        for d in given.d:
            for tokens in given.tokens:
                keep(measure_layers(given, d, tokens))
    if given.models is not None:
        keep(measure_models(given, given.models or [*MODELS, HF], peak))


if __name__ == "__main__":
    main()
