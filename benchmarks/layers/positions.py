"""Attention under each position scheme, beside rotary positions.

    python benchmarks/layers/positions.py --d 256 --tokens 1024 --batch 2 [--output FILE]

Forward and backward of one attention layer, the position's own work included, A B A B in one run, with float32 products
as in `luna train`; then a token after `--tokens` others, as in a conversation. What a whole model computes once for all
layers is here computed for one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from results import add_output, write_results
from side_by_side import add_training, as_in_training, print_table, rounds, saved_bytes
from torch import Tensor

from luna_kernel.contracts.layers import Context, Dims, Position
from luna_kernel.model.attention import Attention
from luna_kernel.model.attention_config import AttentionConfig
from luna_kernel.plugins import load_plugins

NAMES = ("rope", "none", "alibi", "t5", "relational")


def make(args: argparse.Namespace) -> tuple[Attention, dict[str, Position], Tensor]:
    """One attention for all, the schemes, and ids."""
    heads = max(args.d // 64, 1)
    dims = Dims(512, args.d, 8, heads, heads, args.d // heads, 3 * args.d, 1 << 16)
    registry = load_plugins("positions").registry
    found = {name: registry.get("position", name) for name in NAMES}
    schemes = {name: item.load()(item.make_config({}), dims) for name, item in found.items()}
    return Attention(AttentionConfig(), dims), schemes, torch.randint(0, 512, (args.batch, args.tokens))


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward."""
    attention, schemes, tokens = make(args)
    x = torch.randn(*tokens.shape, args.d)
    positions = torch.arange(args.tokens).expand(args.batch, -1)

    def forward(scheme: Position) -> Tensor:
        ctx = Context(positions, position=scheme, tokens=tokens)
        y: Tensor = attention(x.clone().requires_grad_(), ctx)
        return y.square().mean()

    def step(scheme: Position) -> Callable[[], None]:
        return lambda: forward(scheme).backward()  # type: ignore[no-untyped-call]

    weights = {p.untyped_storage().data_ptr() for s in (attention, *schemes.values()) for p in s.parameters()}
    kept = {name: saved_bytes(lambda s=s: forward(s), weights) / 2**20 for name, s in schemes.items()}
    notes = {name: {"MiB kept": size} for name, size in kept.items()}
    times = rounds({name: step(scheme) for name, scheme in schemes.items()}, args.rounds, args.threads)
    return print_table(f"B {args.batch}, T {args.tokens}, D {args.d}, fp32, forward and backward", times, "rope", notes)


@torch.no_grad()
def decode(args: argparse.Namespace) -> dict[str, Any]:
    """One token with a cache."""
    attention, schemes, tokens = make(args)
    x = torch.randn(*tokens.shape, args.d)

    def steps(scheme: Position) -> Callable[[], None]:
        state = attention.make_state(args.batch, 1 << 16, torch.float32, torch.device("cpu"))

        def feed(begin: int, end: int, at: int) -> None:
            positions = torch.arange(at, at + end - begin).expand(args.batch, -1)
            ctx = Context(positions, position=scheme, tokens=tokens[:, begin:end], state=state)
            attention(x[:, begin:end], ctx)

        feed(0, args.tokens, 0)

        def run() -> None:
            for _ in range(32):
                feed(0, 1, state.length)

        return run

    times = rounds({name: steps(scheme) for name, scheme in schemes.items()}, args.rounds, args.threads)
    return print_table(f"B {args.batch}, D {args.d}, fp32, 32 tokens after {args.tokens}", times, "rope")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("d", 256), ("tokens", 1024), ("batch", 2), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    add_training(parser)
    add_output(parser)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with as_in_training(args):
        tables = [train(args)]
    write_results(args, {"tables": [*tables, decode(args)]})


if __name__ == "__main__":
    main()
