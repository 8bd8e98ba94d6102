"""The mixture of experts beside a dense layer of the same active size, a plain sort-and-group, and transformers'.

    python benchmarks/layers/moe.py --d 256 512 --tokens 256 1024 4096 --fresh --warm 4 [--output FILE]

Forward and backward of one layer, 8 experts of which 2 work on a token. `dense`: SwiGLU as wide as the experts that
work on a token. `plain MoE`: sort and group, written with ordinary operations. `Mixtral`: transformers' layer with each
of its ways to run the experts (`batched_mm` copies weights per token: only where the copies fit into 1 GiB).
`keeps`: what autograd keeps for the backward pass, parameters left out. `peak`: most bytes that were allocated in one
forward and backward, as the profiler counts them; `less gradients`: those of the weights left out, of which all experts
have four times what a dense layer has. `products alone`: what no way to run the experts one by one can go
below, in bfloat16 with the casts of the weights and of their gradients. As in `luna train`, memory that was freed is
kept for the next step and products in float32 go by oneDNN where it is faster; `, as it comes` is the same layer, with
products as PyTorch takes them by itself. With `--fresh` each round has another text, so that experts' rows change as
they do in training; without, all that is made for a number of rows is ready.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch
from moc import Dense, PlainMoE, mixtral
from results import add_output, write_results
from side_by_side import Notes, add_training, as_in_training, as_it_comes, print_table, rounds, saved_bytes
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from luna_kernel.contracts.layers import Context, Dims, Layer
from luna_kernel.model.parts import make_parts
from luna_kernel.plugins import load_plugins

COPIES = 1 << 30
"""Bytes of copied weights up to which `batched_mm` is run."""


def layers_for(args: argparse.Namespace, d: int, pairs: int) -> dict[str, nn.Module]:
    """The cases by name."""
    hidden = args.hidden or 3 * d
    dims = Dims(1, d, 8, max(d // 64, 1), max(d // 64, 1), 64, args.top_k * hidden, 1 << 16)
    registry = load_plugins("moe").registry
    node = {"name": "moe", "num_experts": args.experts, "top_k": args.top_k, "expert_dim": hidden}
    layers: dict[str, nn.Module] = {
        "dense": Dense(d, args.top_k * hidden),
        "moe": make_parts("ffn", "ffn", node, dims, registry)[0].module,
        "plain MoE": PlainMoE(d, hidden, args.experts, args.top_k),
    }
    if args.emotional:
        layers["moe, emotional"] = make_parts("ffn", "f", {**node, "router": {"name": "emotional"}}, dims, registry)[
            0
        ].module
    for how in ("eager", "grouped_mm", "batched_mm"):
        if how == "batched_mm" and pairs * 3 * d * hidden * 4 > COPIES:
            continue
        layer = mixtral(d, hidden, args.experts, args.top_k, how)
        if layer is not None:
            layers[f"Mixtral {how}"] = layer
    return layers


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes above the start that were allocated at once, from the profiler's record of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        run()
    held = top = 0
    for event in record.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            top = max(top, held)
    return top


def products(d: int, hidden: int, experts: int, pairs: int, low: bool) -> Callable[[], None]:
    """The six matrix products of each expert, three gradients among them, with an even load and nothing around them.

    In bfloat16 with the casts of the weights, each way, and of their gradients.
    """
    rows = max(pairs // experts, 1)
    dtype = torch.bfloat16 if low else torch.float32
    w13, w2 = torch.randn(experts, 2 * hidden, d), torch.randn(experts, d, hidden)
    grad_w13, grad_w2 = torch.zeros_like(w13), torch.zeros_like(w2)
    x, inner, act = (torch.randn(rows, n, dtype=dtype) for n in (d, 2 * hidden, hidden))
    out = [torch.empty_like(tensor) for tensor in (x, inner, act)]

    def run() -> None:
        for first, second in zip(w13, w2, strict=True):
            torch.mm(x, first.to(dtype).t(), out=out[1])
            torch.mm(act, second.to(dtype).t(), out=out[0])
        for expert, (first, second) in enumerate(zip(w13, w2, strict=True)):
            torch.mm(x, second.to(dtype), out=out[2])
            for left, right, grad in ((x, act, grad_w2[expert]), (inner, x, grad_w13[expert])):
                if low:
                    grad.copy_(left.t() @ right)
                else:
                    torch.mm(left.t(), right, out=grad)
            torch.mm(inner, first.to(dtype), out=out[0])

    return run


def measure(args: argparse.Namespace, d: int, tokens: int, low: bool) -> list[dict[str, Any]]:
    """One table, and one of the mixture against the fastest of transformers' layers."""
    torch.manual_seed(0)
    layers = layers_for(args, d, args.batch * tokens * args.top_k)
    count = args.rounds + args.warm if args.fresh else 1
    texts = [torch.randn(args.batch, tokens, d) for _ in range(count)]
    positions = torch.arange(tokens).expand(args.batch, -1)
    condition = {"emotion": torch.rand(args.batch, 11)}

    def forward(layer: nn.Module, x: Tensor = texts[0]) -> Tensor:
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            if isinstance(layer, Layer):
                ctx = Context(positions, condition=condition)
                return layer(inputs, ctx).float().square().mean() + sum(ctx.losses.values())
            out = layer(inputs)
            return (out[0] if isinstance(out, tuple) else out).float().square().mean()

    def step(layer: nn.Module) -> Callable[[], None]:
        turn = itertools.cycle(texts)

        def run() -> None:
            layer.zero_grad()
            forward(layer, next(turn)).backward()

        return run

    if args.only:
        layers = {name: layer for name, layer in layers.items() if name in (*args.only, "dense")}
    cases = {name: step(layer) for name, layer in layers.items()}
    if not low and args.float32 == "onednn":
        for name in ("dense", "Mixtral grouped_mm"):
            if name in cases:
                cases[f"{name}, as it comes"] = as_it_comes(cases[name])
    cases["products alone"] = products(d, args.hidden or 3 * d, args.experts, args.batch * tokens * args.top_k, low)
    times = rounds(cases, args.rounds, args.threads, warm=args.warm)
    parameters = {p.untyped_storage().data_ptr() for layer in layers.values() for p in layer.parameters()}
    notes: Notes = {}
    for name, layer in layers.items():
        kept = saved_bytes(lambda layer=layer: forward(layer), parameters) / 2**20
        layer.zero_grad()
        peak = peak_bytes(step(layer)) / 2**20
        gradients = sum(p.grad.nbytes for p in layer.parameters() if p.grad is not None) / 2**20
        notes[name] = {"MiB kept": kept, "MiB peak": peak, "less gradients": peak - gradients}
    title = (
        f"{'bf16' if low else 'fp32'}, d {d}, T {tokens}, B {args.batch}, {args.threads} thread(s), forward + backward"
    )
    tables = [print_table(title + ", against dense", times, "dense", notes)]
    others = {name: times[name] for name in times if name.startswith("Mixtral") and name in layers}
    if others:
        best = min(others, key=lambda name: sorted(others[name])[len(others[name]) // 2])
        tables.append(print_table(f"{title}, against {best}", {best: times[best], "moe": times["moe"]}, best))
    return tables


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--hidden", type=int, help="hidden width of one expert; default 3 d")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm", type=int, default=1, help="rounds before those that are measured")
    parser.add_argument("--only", nargs="+", help="of the layers only these, by name, and dense")
    parser.add_argument("--fresh", action="store_true", help="another text in each round, with other rows per expert")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "both"], default="both")
    add_training(parser)
    parser.add_argument("--emotional", action="store_true", help="also with the emotional router")
    add_output(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tables = []
    with as_in_training(args):
        for low in (False, True):
            if args.dtype in ("both", "bf16" if low else "fp32"):
                tables += [table for d in args.d for tokens in args.tokens for table in measure(args, d, tokens, low)]
    write_results(args, {"tables": tables})


if __name__ == "__main__":
    main()
