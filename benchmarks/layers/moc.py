"""The collaborative experts beside a dense layer of the same active size, a plain sparse mixture, and others' code.

    python benchmarks/layers/moc.py --d 512 --tokens 1024 --batch 4 --threads 1 [--output FILE]

Forward and backward of one layer. `dense`: SwiGLU as wide as the experts that work on a token. `plain MoE`: sort and
group, written with ordinary operations. `Mixtral`: transformers' layer, where it is installed. `straightforward MoC`:
the full form as one writes it first, all experts in a loop and nn.MultiheadAttention over them.
With `--full` the share of its operations that the experts alone are is printed too: as the exact gradient reaches every
expert, no full form that computes at the same rate takes a smaller share of its time. `all experts alone` is that floor
with the kernel's own products: every expert on every token, and no meeting.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from luna_plugin_moc.everyone import run_all
from luna_plugin_moc.layer import CollaborativeExperts
from results import add_output, write_results
from side_by_side import Notes, add_training, as_in_training, peak_bytes, print_table, rounds, saved_bytes
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.model.parts import make_parts
from luna_kernel.plugins import load_plugins

STRAIGHTFORWARD = "straightforward MoC"


class Dense(nn.Module):
    """SwiGLU."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(d, hidden, bias=False), nn.Linear(d, hidden, bias=False)
        self.w2 = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class PlainMoE(nn.Module):
    """Sort the pairs by expert, run each expert on its rows, add up: the reference that everybody writes."""

    def __init__(self, d: int, hidden: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(d, experts, bias=False)
        self.experts = nn.ModuleList(Dense(d, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        flat = x.view(-1, x.shape[-1])
        p = F.linear(flat.float(), self.router.weight.float()).softmax(-1)
        weights, ids = p.topk(self.top_k)
        weights = (weights / weights.sum(-1, keepdim=True)).flatten()
        order = ids.flatten().argsort(stable=True)
        counts = torch.bincount(ids.flatten(), minlength=len(self.experts)).tolist()
        out = torch.zeros_like(flat, dtype=torch.float32)
        for expert, pairs in zip(self.experts, order.split(counts), strict=True):
            rows = pairs // self.top_k
            out = out.index_add(0, rows, (expert(flat[rows]) * weights[pairs, None]).float())
        return out.view_as(x)


class StraightforwardMoC(nn.Module):
    """All experts in a loop, nn.MultiheadAttention over their outputs, routing from each, fusion by a second one."""

    def __init__(self, d: int, hidden: int, experts: int, top_k: int, heads: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.experts = nn.ModuleList(Dense(d, hidden) for _ in range(experts))
        self.confer = nn.MultiheadAttention(d, heads, batch_first=True)
        self.fuse = nn.MultiheadAttention(d, heads, batch_first=True)
        self.norm = nn.RMSNorm(d)
        self.score = nn.Linear(d, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        flat = x.view(-1, x.shape[-1])
        said = torch.stack([expert(flat) for expert in self.experts], dim=1)
        heard = self.norm(said + self.confer(said, said, said)[0])
        weights, ids = self.score(heard).squeeze(-1).topk(self.top_k)
        chosen = said.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))
        chosen = chosen + self.fuse(chosen, chosen, chosen)[0]
        return (weights.softmax(-1)[..., None] * chosen).sum(1).view_as(x)


class Everyone(nn.Module):
    """Every expert on every token as the full form runs them, and no meeting: the sum of what they say."""

    def __init__(self, full: nn.Module) -> None:
        super().__init__()
        self.w13 = nn.Parameter(full.w13.detach().clone())
        self.w2 = nn.Parameter(full.w2.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        said, _ = run_all(x.flatten(0, 1).to(low), self.w13.to(low), self.w2.to(low), keep=True)
        return said.sum(1).view_as(x)


def mixtral(d: int, hidden: int, experts: int, top_k: int, how: str) -> nn.Module | None:
    """Transformers' sparse layer with one of its ways to run the experts, or None without transformers."""
    try:
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    except ImportError:
        return None
    config = MixtralConfig(
        hidden_size=d, intermediate_size=hidden, num_local_experts=experts, num_experts_per_tok=top_k
    )
    config._experts_implementation = how
    layer: nn.Module = MixtralSparseMoeBlock(config)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.02)
    return layer


def experts_share(d: int, hidden: int, experts: int, top_k: int) -> float:
    """Multiplications of all experts on a token, as a share of those of `StraightforwardMoC`, forward.

    Backward each product is taken twice more, in both, so this is the share of forward and backward too. Experts E, K
    chosen, width D, hidden width F: 3 E D F; four projections of two attentions 4 (E + K) D²; scores and means
    2 (E² + K²) D; the router E D.
    """
    own = 3 * experts * d * hidden
    attention = 4 * (experts + top_k) * d * d + 2 * (experts**2 + top_k**2) * d
    return own / (own + attention + experts * d)


def cases(args: argparse.Namespace, d: int, length: int) -> dict[str, nn.Module]:
    """The layers to compare, by name."""
    heads = max(d // 64, 1)
    expert = args.hidden or 3 * d
    width = args.top_k * expert
    dims = Dims(0, d, 8, heads, heads, d // heads, width, length)
    sparse = {"num_experts": args.experts, "top_k": args.top_k, "expert_dim": expert}
    registry = load_plugins("moc").registry

    def moc(**fields: object) -> nn.Module:
        return make_parts("ffn", "ffn", {"name": "moc", **sparse, **fields}, dims, registry)[0].module

    layers: dict[str, nn.Module] = {
        "dense": Dense(d, width),
        "plain MoE": PlainMoE(d, expert, args.experts, args.top_k),
        "moc none+sum": moc(context="none", fusion="sum"),
        "moc low_rank+sum": moc(context="low_rank", fusion="sum"),
        "moc low_rank+attend": moc(),
        "moc autonomy+sum": moc(context="autonomy", fusion="sum"),
        "moc none+chain": moc(context="none", fusion="chain"),
    }
    for how in ("eager", "grouped_mm"):
        layer = mixtral(d, expert, args.experts, args.top_k, how)
        if layer is not None:
            layers[f"Mixtral {how}"] = layer
    if args.full:
        meeting = {"context": "full", "context_heads": args.heads}
        layers["moc full+attend"] = moc(**meeting)
        layers["all experts alone"] = Everyone(layers["moc full+attend"])
        layers["moc full+attend, chosen learn"] = moc(full_gradient="chosen", **meeting)
        layers[STRAIGHTFORWARD] = StraightforwardMoC(d, expert, args.experts, args.top_k, args.heads)
    if args.only:
        layers = {name: layer for name, layer in layers.items() if any(word in name for word in args.only)}
    return layers


def compare(args: argparse.Namespace, d: int, length: int) -> list[dict[str, Any]]:
    """The tables of one width and length."""
    tables: list[dict[str, Any]] = []
    layers = cases(args, d, length)
    x = torch.randn(args.batch, length, d)
    positions = torch.arange(length).expand(args.batch, -1)
    for name, low in (("fp32", False), ("bf16", True)):
        if args.dtype not in (name, "both"):
            continue

        def forward(layer: nn.Module, low: bool = low) -> Tensor:
            inputs = x.clone().requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                if not isinstance(layer, CollaborativeExperts):
                    out = layer(inputs)
                    return (out[0] if isinstance(out, tuple) else out).float().square().mean()
                ctx = Context(positions=positions)
                return layer(inputs, ctx).float().square().mean() + sum(ctx.losses.values())

        def step(layer: nn.Module) -> Callable[[], None]:
            def run() -> None:
                layer.zero_grad()
                forward(layer).backward()

            return run

        notes: Notes = {
            key: {"MFLOP per token forward": layer.flops_per_token(length) / 1e6}
            for key, layer in layers.items()
            if isinstance(layer, CollaborativeExperts)
        }
        title = f"{name}, d {d}, T {length}, B {args.batch}, {args.threads} thread(s), forward + backward"
        if args.memory:
            for key, sizes in measure_memory(layers, forward, step).items():
                notes[key] = notes.get(key, {}) | sizes
        if args.rounds:
            times = rounds({key: step(layer) for key, layer in layers.items()}, args.rounds, args.threads)
            for base in filter(times.__contains__, ("dense", "moc none+sum", STRAIGHTFORWARD)):
                tables.append(print_table(f"{title}, against {base}", times, base, notes))
                notes = {}  # once is enough
        if args.full:
            share = experts_share(d, args.hidden or 3 * d, args.experts, args.top_k)
            tables[-1]["share_of_operations_of_all_experts"] = share
            print(f"\nall experts, forward and backward, are {share:.3f} of the operations of the {STRAIGHTFORWARD}")
    return tables


def measure_memory(
    layers: dict[str, nn.Module],
    forward: Callable[[nn.Module], Tensor],
    step: Callable[[nn.Module], Callable[[], None]],
) -> Notes:
    """What autograd keeps for the backward pass, and by how much the process grows at most."""
    parameters = {p.untyped_storage().data_ptr() for layer in layers.values() for p in layer.parameters()}
    sizes: Notes = {}
    for key, layer in layers.items():
        kept = saved_bytes(lambda layer=layer: forward(layer), parameters) / 2**20
        step(layer)()  # the gradients of the weights are there before and after
        sizes[key] = {"MiB kept": kept, "MiB peak": peak_bytes(step(layer)) / 2**20}
    return sizes


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d", type=int, nargs="+", default=[512])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--hidden", type=int, help="hidden width of one expert; default 3 d")
    parser.add_argument("--heads", type=int, default=1, help="of the full context and of the straightforward form")
    parser.add_argument("--rounds", type=int, default=5, help="0: no times")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["fp32", "bf16", "both"], default="both")
    parser.add_argument("--full", action="store_true", help="also the full context and the straightforward form (slow)")
    parser.add_argument("--only", nargs="+", help="only cases whose names hold one of these words")
    parser.add_argument("--memory", action="store_true", help="also what is kept for the backward pass, and the peak")
    add_training(parser)
    add_output(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with as_in_training(args):
        tables = [table for d in args.d for length in args.tokens for table in compare(args, d, length)]
    write_results(args, {"tables": tables})


if __name__ == "__main__":
    main()
