"""The state-space mixer and the hybrid beside causal attention and others' code.

    python benchmarks/layers/ssm.py --d 256 512 --tokens 1024 --batch 4 --threads 1
    python benchmarks/layers/ssm.py --d 256 512 --tokens 8192 --batch 1 --threads 1
    python benchmarks/layers/ssm.py --d 256 --growth --svg docs/figures/ssm-growth.svg
    python benchmarks/layers/ssm.py --decode

Forward and backward of one layer; `attention` is the kernel's own, with rotary positions. `Mamba2`: transformers' layer
of the same sizes on its path without CUDA kernels, where transformers is installed, with our chunk and with its own;
`matrices alone`: what both spend in the two projections. As in `luna train`, float32 products go by oneDNN where it is
faster; `, as it comes` is transformers' layer with products as PyTorch takes them by itself. `--growth`: time per token
up to 65,536 tokens. `--decode`: seconds per token after short and long texts. `--output FILE` writes the figures of any
of these as JSON.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from drawing import draw_lines
from luna_plugin_ssm.config import HybridConfig, StateSpaceConfig
from luna_plugin_ssm.hybrid import Hybrid
from luna_plugin_ssm.layer import StateSpace
from results import add_output, write_results
from side_by_side import Notes, add_training, as_in_training, as_it_comes, print_table, rounds, saved_bytes
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims, Layer
from luna_kernel.model.attention import Attention
from luna_kernel.model.attention_config import AttentionConfig
from luna_kernel.model.rope import RotaryPosition
from luna_kernel.model.rope_config import RotaryConfig


def mamba2(d: int, chunk: int, expand: int, state: int) -> nn.Module | None:
    """Transformers' Mamba-2 mixer, or None without transformers."""
    try:
        from transformers import Mamba2Config
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
    except ImportError:
        return None
    config = Mamba2Config(
        hidden_size=d, num_heads=expand * d // 64, head_dim=64, state_size=state, n_groups=1, expand=expand,
        chunk_size=chunk,
    )  # fmt: skip
    layer: nn.Module = Mamba2Mixer(config, layer_idx=0)
    return layer


class Matrices(nn.Module):
    """The two projections of a state space, x (B, T, D) to (B, T, D), without what stands between them."""

    def __init__(self, layer: StateSpace) -> None:
        super().__init__()
        self.inner = layer.inner
        self.in_proj = nn.Parameter(layer.in_proj.detach().clone())
        self.out_proj = nn.Parameter(layer.out_proj.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return F.linear(F.linear(x, self.in_proj)[..., : self.inner], self.out_proj)


def make_layers(d: int, tokens: int, chunk: int, peers: bool) -> tuple[dict[str, nn.Module], RotaryPosition]:
    """The layers to compare and the positions that attention uses."""
    heads = max(d // 64, 1)
    dims = Dims(0, d, 8, heads, heads, d // heads, 3 * d, tokens)
    ssm = StateSpaceConfig(chunk_size=chunk)
    layers: dict[str, nn.Module] = {
        "attention": Attention(AttentionConfig(), dims),
        "hybrid": Hybrid(HybridConfig(ssm=ssm), dims),
    }
    for label, expand, state in (("", ssm.expand, ssm.state_dim), (", expand 2, N 64", 2, 64)):
        own = StateSpace(ssm.model_copy(update={"expand": expand, "state_dim": state}), dims)
        layers["ssm" + label] = own
        if peers:
            layers["matrices alone" + label] = Matrices(own)
            for other_chunk in dict.fromkeys((chunk, 256)):
                other = mamba2(d, other_chunk, expand, state)
                if other is not None:
                    layers[f"Mamba2, chunk {other_chunk}{label}"] = other
    return layers, RotaryPosition(RotaryConfig(), dims)


def compare(args: argparse.Namespace, d: int, length: int) -> list[dict[str, Any]]:
    """Forward and backward."""
    tables = []
    layers, position = make_layers(d, length, args.chunk, not args.no_peers)
    x = torch.randn(args.batch, length, d)
    positions = torch.arange(length).expand(args.batch, -1)
    for name, low in (("fp32", False), ("bf16", True)):
        if args.dtype not in (name, "both"):
            continue

        def forward(layer: nn.Module, low: bool = low) -> Tensor:
            inputs = x.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                own = isinstance(layer, Layer)
                y: Tensor = layer(inputs, Context(positions, position=position)) if own else layer(inputs)
                return y.float().square().mean()

        def step(layer: nn.Module) -> Callable[[], None]:
            def run() -> None:
                layer.zero_grad()
                forward(layer).backward()

            return run

        cases = {key: step(layer) for key, layer in layers.items()}
        if not low and args.float32 == "onednn":
            cases |= {f"{key}, as it comes": as_it_comes(cases[key]) for key in layers if key.startswith("Mamba2")}
        times = rounds(cases, args.rounds, args.threads)
        parameters = {p.untyped_storage().data_ptr() for layer in layers.values() for p in layer.parameters()}
        notes: Notes = {}
        for key, layer in layers.items():
            notes[key] = {"MiB kept": saved_bytes(lambda layer=layer: forward(layer), parameters) / 2**20}
            if isinstance(layer, Layer):
                notes[key]["MFLOP per token forward"] = layer.flops_per_token(length) / 1e6
        title = f"{name}, d {d}, T {length}, B {args.batch}, {args.threads} thread(s), forward + backward"
        tables.append(print_table(title + ", against attention", times, "attention", notes))
    return tables


def growth(args: argparse.Namespace, d: int) -> list[dict[str, Any]]:
    """Forward and backward of one text of growing length."""
    lengths = {"ssm": (1024, 4096, 16384, 65536), "attention": (1024, 2048, 4096, 8192)}
    layers, position = make_layers(d, 65536, args.chunk, peers=False)
    lines, tables = {}, []
    for key, numbers in lengths.items():
        cases: dict[str, Callable[[], object]] = {}
        for length in numbers:

            def run(layer: nn.Module = layers[key], length: int = length) -> None:
                layer.zero_grad()
                x = torch.randn(1, length, d, requires_grad=True)
                layer(x, Context(torch.arange(length)[None], position=position)).square().mean().backward()

            cases[f"{length:6} tokens"] = run
        times = rounds(cases, args.rounds, args.threads)
        title = f"{key}, fp32, d {d}, B 1, {args.threads} thread(s), forward + backward"
        tables.append(print_table(title, times, "  1024 tokens"))
        medians = [statistics.median(values) for values in times.values()]
        lines[key] = [(n, seconds / n * 1e6) for n, seconds in zip(numbers, medians, strict=True)]
        tables[-1]["microseconds per token"] = {str(n): each for n, each in lines[key]}
        print("  microseconds per token: " + ", ".join(f"{n}: {each:.1f}" for n, each in lines[key]))
    if args.svg:
        draw_lines(args.svg, "Forward and backward, per token", "tokens of the text", "microseconds", lines)
    return tables


@torch.no_grad()
def decode(args: argparse.Namespace, d: int) -> list[dict[str, Any]]:
    """Seconds per decoded token after a text of each length."""
    lengths, tables = (1024, 65536), []
    layers, position = make_layers(d, max(lengths) + 1024, args.chunk, peers=False)
    for key, count in (("ssm", 100), ("attention", 5)):
        layer, cases = layers[key], dict[str, Callable[[], object]]()
        assert isinstance(layer, Layer)
        for length in lengths:
            state = layer.make_state(1, length + 4096, torch.float32, torch.device("cpu"))
            for start in range(0, length, 1024):
                places = torch.arange(start, start + 1024)[None]
                if key == "attention":  # what the keys are does not matter here, and making them takes minutes
                    state.append(*torch.randn(2, 1, layer.num_kv_heads, 1024, layer.head_dim), places, None)
                else:
                    layer(torch.randn(1, 1024, d), Context(places, position=position, state=state))
            token, place = torch.randn(1, 1, d), torch.tensor([[length]])

            def run(
                layer: Layer = layer, state: object = state, token: Tensor = token, place: Tensor = place,
                count: int = count,
            ) -> None:  # fmt: skip
                for _ in range(count):
                    layer(token, Context(place, position=position, state=state))

            cases[f"after {length} tokens"] = run
        times = rounds(cases, args.rounds, args.threads)
        tables.append(print_table(f"{key}: {count} decoded tokens, fp32, d {d}", times, "after 1024 tokens"))
    return tables


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d", type=int, nargs="+", default=[512])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=StateSpaceConfig().chunk_size)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "both"], default="both")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--svg", type=Path, help="with --growth: draw it into this file")
    parser.add_argument("--no-peers", action="store_true", help="leave transformers' layer and the matrices out")
    add_training(parser)
    add_output(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.decode:
        tables = [table for d in args.d for table in decode(args, d)]
    else:
        with as_in_training(args):
            if args.growth:
                tables = [table for d in args.d for table in growth(args, d)]
            else:
                tables = [table for d in args.d for length in args.tokens for table in compare(args, d, length)]
    write_results(args, {"tables": tables})


if __name__ == "__main__":
    main()
