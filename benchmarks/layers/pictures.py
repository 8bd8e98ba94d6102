"""Pictures of what layers do, from small models trained on prose for the purpose.

    python benchmarks/layers/pictures.py TEXTS --figures docs/figures [--seconds 60] [--only moe,moc,positions]
                                         [--output FILE]

`moe-experts.svg`: the tokens of a sentence and the weight of each expert in the last mixture, empty where it rests.
`moc-together.svg`: of the held-out tokens on which an expert works, the share on which each other works with it; a row
sums to 1. `positions-bias.svg`: by which factor what is added to a score weighs a token at a distance, beside the token
itself: exp(bias at n - bias at 0), fixed (`alibi`, the steepest and the flattest head) and learnt (`t5`, each head);
models with `rope` and with `none` are trained beside them. Printed: bits per byte of held-out text, the mutual
information of token and expert (0 to ln E nats), and the largest share that an expert in the meeting gives another.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from drawing import draw_heat, draw_lines
from prose import Prose, make_parser, make_run, read_prose, train_as_luna
from quality import CONTENDERS, DIMS, LENGTH, ROWS, VOCAB
from results import write_results

from luna_kernel.contracts.layers import Context, Pairs
from luna_kernel.contracts.routers import Router
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

SENTENCE = "O menino perguntou à mãe por que não vinha o doutor, e ela respondeu que sim."
POSITIONS = ("rope", "none", "alibi", "t5")
FARTHEST = 256


def trained(name: str, given: argparse.Namespace, prose: Prose, folder: Path) -> tuple[Decoder, dict[str, float]]:
    """A model of `quality.py`, or a dense one with another position scheme; and how good it is."""
    plugins = load_plugins("moe,moc,positions")
    places, configs = CONTENDERS.get(name, ({name: "every block"}, {}))
    blueprint = Blueprint.from_preset(
        "mini", plugins.registry, vocab_size=prose[0].vocab_size, place=places, configs=configs,
        dims={**DIMS, "max_positions": LENGTH},
    )  # fmt: skip
    run = make_run(
        blueprint, plugins, prose, folder, [], {"warmup_steps": 20, "decay_share": 0.0}, seed=0, batch_size=ROWS,
        sequence_length=LENGTH, learning_rate=given.learning_rate, optimizer={"name": "muon"},
        valid_samples=given.valid_samples, max_seconds=given.seconds,
    )  # fmt: skip
    train_as_luna(run)
    bits = run.measure()
    print(f"{name}: {bits:.3f} bits per byte of held-out text after {run.tokens:,} tokens", flush=True)
    return run.model.eval(), {"bits_per_byte": bits, "tokens": float(run.tokens)}


@torch.no_grad()
def seen(model: Decoder, module: Any, ids: list[int]) -> Any:
    """What `module` gives while the model reads `ids`."""
    found: list[Any] = []
    hook = module.register_forward_hook(lambda _module, _given, result: found.append(result))
    model(torch.tensor([ids]), last_only=True)
    hook.remove()
    return found[0]


def held_out(prose: Prose, count: int) -> list[list[int]]:
    """Pieces of held-out text, at most `count`."""
    most = min(count * LENGTH, prose[2].num_tokens - LENGTH + 1)
    return [prose[2].read(at, at + LENGTH)[0].tolist() for at in range(0, most, LENGTH)]


def draw_experts(model: Decoder, prose: Prose, figures: Path) -> dict[str, float]:
    """Tokens by experts."""
    router = [part.module for part in model.parts if isinstance(part.module, Router)][-1]
    ids = prose[0].encode(SENTENCE)
    routing = seen(model, router, ids)
    table = torch.zeros(len(ids), router.num_experts).scatter(1, routing.experts, routing.weights)
    rows = [prose[0].decode([one]).replace(" ", "·") for one in ids]
    values = [[value if value else None for value in row] for row in table.tolist()]
    names = [str(number) for number in range(router.num_experts)]
    draw_heat(figures / "moe-experts.svg", "Weight of each expert, token by token", rows, names, values, white=0.0)
    probabilities = torch.cat([seen(model, router, piece).probabilities for piece in held_out(prose, 16)])
    entropy = torch.special.entr
    mutual = entropy(probabilities.mean(0)).sum() - entropy(probabilities).sum(1).mean()
    print(f"mutual information of token and expert {mutual:.3f} nats, of at most {math.log(router.num_experts):.3f}")
    return {"mutual_information": float(mutual)}


def draw_together(model: Decoder, prose: Prose, figures: Path) -> dict[str, float]:
    """Who works with whom; and how even the meeting before the choice is."""
    layer: Any = [block.ffn for block in model.blocks if getattr(block.ffn, "context", None) is not None][-1]
    pieces = held_out(prose, 16)
    chosen = torch.cat([seen(model, layer.router, piece).experts for piece in pieces])
    ones = torch.nn.functional.one_hot(chosen, layer.router.num_experts).sum(1).float()
    both = (ones.T @ ones).fill_diagonal_(0)
    shares = both / both.sum(1, keepdim=True).clamp_min(1)
    names = [str(number) for number in range(len(shares))]
    values = [[None if i == j else share for j, share in enumerate(row)] for i, row in enumerate(shares.tolist())]
    title = "Of an expert's tokens (down), where each other works too"
    draw_heat(figures / "moc-together.svg", title, names, names, values, white=0.0)
    heard = torch.cat([seen(model, layer.context, piece)[2].mean(1) for piece in pieces])
    most = heard.amax(-1).mean()
    print(f"a listener's largest share {most:.3f} on average; {1 / len(shares):.3f} if it heard all alike")
    return {"largest_share": float(most), "seldom": float(shares[shares > 0].min()), "often": float(shares.max())}


@torch.no_grad()
def factors(model: Decoder) -> list[list[tuple[float, float]]]:
    """Of each head (distance n from 1, exp(bias at n - bias at 0))."""
    scheme: Any = model.position
    keys = torch.arange(FARTHEST + 1)[None]
    bias = scheme.bias(Context(keys), Pairs(keys[:, -1:], keys, None, None))
    rows = bias[0, :, 0].flip(1)
    rows = (rows - rows[:, :1]).exp()
    return [[(float(n), float(row[n])) for n in range(1, FARTHEST + 1)] for row in rows]


def main() -> None:
    """Run it."""
    parser = make_parser(__doc__ or "", seconds=60.0, learning_rate=3e-3, valid_samples=64)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--only", default="moe,moc,positions")
    given = parser.parse_args()
    torch.set_num_threads(1)
    only = given.only.split(",")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prose = read_prose(given.texts, folder, VOCAB)
        if "moe" in only:
            model, found["moe"] = trained("moe", given, prose, folder / "moe")
            found["moe"] |= draw_experts(model, prose, given.figures)
        if "moc" in only:
            model, found["moc"] = trained("moc low rank", given, prose, folder / "moc")
            found["moc"] |= draw_together(model, prose, given.figures)
        if "positions" in only:
            lines = {}
            for each in POSITIONS:
                model, found[each] = trained(each, given, prose, folder / each)
                heads = factors(model) if each in ("alibi", "t5") else []
                if each == "alibi":
                    heads = [min(heads, key=lambda head: head[0][1]), max(heads, key=lambda head: head[0][1])]
                    lines |= dict(zip(("alibi, steepest head", "alibi, flattest head"), heads, strict=True))
                else:
                    lines |= {f"{each}, head {number}": head for number, head in enumerate(heads)}
            path, across = given.figures / "positions-bias.svg", "tokens between query and key"
            draw_lines(path, "Weight of a token by its distance", across, "factor", lines, log=(True, False))
    write_results(given, {"models": found})


if __name__ == "__main__":
    main()
