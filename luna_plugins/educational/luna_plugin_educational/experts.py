"""Which experts worked, on what, and with whom: the choices of the routers in one pass.

Shape letters: T tokens, K chosen, E experts, C kinds of token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.contracts.chat import Painted

from .page import Page, bar
from .reading import Reading
from .tokens import KINDS, kind_of
from .tracing import ConferenceSeen, RoutingSeen

t = catalogue(__package__)

SHUFFLES = 20
"""Random orders of the kinds: the mutual information that so few tokens show where there is none."""


@dataclass(frozen=True)
class Usage:
    """What one router did."""

    load: Tensor
    """(E,) share of the pairs of token and expert; sums to 1."""
    entropy: float
    """Mean entropy of a token's probabilities, nats, 0 to ln E."""
    information: float
    """Mutual information of the kind of token and the expert, nats."""
    shuffled: float
    """The same with the kinds in a random order, the mean of `SHUFFLES`."""
    by_kind: Tensor
    """(C, E) pairs."""


def usage(routing: RoutingSeen, kinds: Sequence[str]) -> Usage:
    """What a router did on tokens of these kinds."""
    experts = routing.routing.experts.cpu()
    number = routing.routing.probabilities.shape[1]
    labels = torch.tensor([KINDS.index(kind) for kind in kinds])
    chosen = torch.zeros(len(labels), number, dtype=torch.float64)
    chosen.scatter_(1, experts, 1.0)
    generator = torch.Generator().manual_seed(0)
    tables = [_by_kind(chosen, labels[torch.randperm(len(labels), generator=generator)]) for _ in range(SHUFFLES)]
    counts = _by_kind(chosen, labels)
    entropy = torch.special.entr(routing.routing.probabilities.double()).sum(-1).mean()
    shuffled = sum(map(mutual_information, tables)) / len(tables)
    load = chosen.sum(0) / chosen.sum()
    return Usage(load, float(entropy), mutual_information(counts), shuffled, counts)


def mutual_information(counts: Tensor) -> float:
    """I(row; column) in nats of a table of counts: H(row) + H(column) - H(row, column)."""
    joint = counts.double() / counts.sum().clamp_min(1)
    parts = [torch.special.entr(p).sum() for p in (joint.sum(0), joint.sum(1), joint)]
    return max(0.0, float(parts[0] + parts[1] - parts[2]))


def _by_kind(chosen: Tensor, labels: Tensor) -> Tensor:
    return torch.zeros(len(KINDS), chosen.shape[1], dtype=chosen.dtype).index_add(0, labels, chosen)


def expert_rows(routing: RoutingSeen, names: Sequence[str], places: Sequence[int]) -> list[list[str]]:
    """The experts of the tokens at `places`, each with its weight."""
    rows = [[t("column.piece"), t("column.experts"), t("column.entropy")]]
    for place in places:
        chosen = zip(routing.routing.experts[place].tolist(), routing.routing.weights[place].tolist(), strict=True)
        entropy = float(torch.special.entr(routing.routing.probabilities[place].double()).sum())
        rows.append(
            [
                names[place],
                "  ".join(f"{expert}:{number_text(weight, 2)}" for expert, weight in chosen),
                number_text(entropy, 2),
            ]
        )
    return rows


def collaboration(conference: ConferenceSeen) -> str:
    """How far the experts listened to each other, in a sentence; H(mean a) - H(a) as in the layer's own metric."""
    attention = conference.attention.double()
    own = float(attention.diagonal(dim1=-2, dim2=-1).mean())
    mean_entropy = torch.special.entr(attention).sum(-1).mean(0)
    told = float((torch.special.entr(attention.mean(0)).sum(-1) - mean_entropy).mean())
    size = attention.shape[-1]
    fields = {
        "own": f"{100 * own:.0f}",
        "even": f"{100 / size:.0f}",
        "told": number_text(told, 3),
        "most": number_text(math.log(size), 2),
    }
    return t("collaboration", place=conference.place, size=size, **fields)


@torch.no_grad()
def experts_page(reading: Reading, columns: int | None = None) -> Painted:
    """Usage of the experts over prompt and answer.

    Raises:
        UsageError: the model has no layer with experts.
    """
    seen = reading.trace()
    loads = {name: value for name, value in seen.metrics.items() if name.partition("/")[2].startswith("load/")}
    if not seen.routings and not loads:
        raise UsageError(t("experts.none"), hint=t("experts.none.hint"))
    kinds = [kind_of(reading.generator.tokenizer, id_) for id_ in seen.ids]
    page = Page(columns)
    page.head(t("experts.title", number=reading.number, tokens=len(seen.ids)))
    page.prose(t("experts.text"))
    for routing in seen.routings:
        found = usage(routing, kinds)
        most = math.log(len(found.load))
        page.head(routing.place)
        for expert, share in enumerate(found.load.tolist()):
            page.line(f"  {expert:3d}  {bar(share, min(30, page.columns - 18))}  {number_text(100 * share, 1):>5} %")
        load_entropy = float(torch.special.entr(found.load).sum())
        numbers = {
            "load": number_text(load_entropy, 2),
            "token": number_text(found.entropy, 2),
            "most": number_text(most, 2),
        }
        page.prose(t("experts.entropy", **numbers))
        page.prose(
            t("experts.information", found=number_text(found.information, 4), chance=number_text(found.shuffled, 4))
        )
        rows = [[t("column.kind"), t("column.tokens"), t("column.favourites")]]
        for number, kind in enumerate(KINDS):
            counts = found.by_kind[number]
            if counts.sum() > 0:
                best = counts.topk(min(3, len(counts)))
                pairs = zip(best.indices.tolist(), (best.values / counts.sum()).tolist(), strict=True)
                rows.append(
                    [t(f"kind.{kind}"), str(kinds.count(kind)), "  ".join(f"{e}: {100 * s:.0f} %" for e, s in pairs)]
                )
        page.rows(rows)
    if not seen.routings:
        for name, value in loads.items():
            page.head(name)
            for expert, share in enumerate(value.tolist()):
                page.line(
                    f"  {expert:3d}  {bar(share, min(30, page.columns - 18))}  {number_text(100 * share, 1):>5} %"
                )
    for conference in seen.conferences:
        page.prose(collaboration(conference))
    return page.painted()
