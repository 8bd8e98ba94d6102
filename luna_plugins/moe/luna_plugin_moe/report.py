"""What an emotion does to the choice of experts, measured.

Shape letters: T tokens, K chosen, E experts, C emotions.

The same text is read without an emotion and with each one: do(e), so that nothing but the emotion can have moved the
choice. For data with emotions of their own it is also told what routing says of them, with and without the signal:
a happy text has other words, so an expert may know of the emotion though nobody told it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from luna_kernel.contracts.routers import Router
from luna_kernel.model.decoder import Decoder

from .dispatch import count_experts
from .emotional import EMOTION, EmotionalRouter
from .emotions import EMOTIONS

SHUFFLES = 20
"""Random orders of the labels: what mutual information a sample of this size shows where there is none."""
NEXT_TO_NOTHING = 1e-30
"""An emotion too weak to move any score; it is given where a head must not speak in its place."""


@dataclass(frozen=True)
class Observed:
    """Mutual information (nats) of the data's emotions and the experts."""

    told: float
    """With each record's emotion as the signal; where it has a label alone, with what the head hears."""
    untold: float
    """Without a signal, the head silent: what the text alone gives away."""
    shuffled: float
    """The mean over shuffled labels, with the signal: about 0 but for the smallness of the sample."""


@dataclass(frozen=True)
class Heard:
    """How well a head tells the emotion of whole texts."""

    accuracy: float
    """Share of the texts whose strongest label is the emotion that the head finds strongest, on average over tokens."""
    texts: int
    """How many have a label."""


@dataclass(frozen=True)
class LayerReport:
    """One layer with experts."""

    place: str
    router: str
    load: list[float]
    """(E,) share of the pairs of token and expert without an emotion; sums to 1."""
    by_emotion: dict[str, list[float]]
    """The same under each emotion; empty for a model that reads none."""
    shift: dict[str, float]
    """Jensen-Shannon divergence (nats, 0 to ln 2) of the load under each emotion from that without."""
    mutual_information: float | None
    """Of emotion and expert (nats), all emotions equally likely, on the same texts; None if it reads none."""
    observed: Observed | None = None
    heard: Heard | None = None

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


def mutual_information(counts: Tensor) -> float:
    """I(row; column) in nats of a table of counts (C, E); 0 for an empty one."""
    joint = counts.double() / counts.sum().clamp_min(1)
    entropies = [torch.special.entr(p).sum() for p in (joint.sum(0), joint.sum(1), joint)]
    return max(0.0, float(entropies[0] + entropies[1] - entropies[2]))


def divergence(p: Tensor, q: Tensor) -> float:
    """Jensen-Shannon divergence in nats of two distributions (E,)."""
    middle = torch.special.entr((p + q) / 2).sum()
    return max(0.0, float(middle - (torch.special.entr(p).sum() + torch.special.entr(q).sum()) / 2))


@torch.no_grad()
def report(
    model: Decoder,
    texts: Sequence[Sequence[int]],
    emotions: Sequence[Mapping[str, float] | None] = (),
    labels: Sequence[Mapping[str, float] | None] = (),
) -> list[LayerReport]:
    """Read `texts` (ids) and tell of each layer with experts how its load goes with the emotion.

    Args:
        model: in eval mode; a model without routers gives an empty list.
        emotions: of each text, strengths by name, or None; empty: none has any.
        labels: of each text, what a head should hear, in the same form.
    """
    with _counting(model) as counted:
        hears = EMOTION in model.conditions
        size = len(EMOTIONS)
        strengths = torch.cat([torch.zeros(1, size), torch.eye(size)]) if hears else torch.zeros(1, size)
        sums: dict[str, Tensor] = {}
        for ids in texts:
            for place, counts in counted(ids, strengths if hears else None).items():
                sums[place] = sums.get(place, torch.zeros_like(counts)) + counts
        own = [(ids, e, strongest(e)) for ids, e in zip(texts, emotions, strict=False) if strongest(e) is not None]
        labelled = [(ids, strongest(e)) for ids, e in zip(texts, labels, strict=False) if strongest(e) is not None]
        observed = _observed(counted, own or [(ids, {}, label) for ids, label in labelled]) if hears else {}
    heard = _heard(model, labelled)
    return [
        _layer(part.place, part.component.name, sums[part.place], observed.get(part.place), heard.get(part.place))
        for part in model.parts
        if part.place in sums
    ]


def strongest(emotion: Mapping[str, float] | None) -> int | None:
    """The dimension with the largest strength; None where there is none."""
    found = max(range(len(EMOTIONS)), key=lambda i: (emotion or {}).get(EMOTIONS[i], 0.0))
    return found if (emotion or {}).get(EMOTIONS[found], 0.0) > 0 else None


@torch.no_grad()
def foretell(model: Decoder, ids: Sequence[int]) -> dict[str, Tensor]:
    """What each head hears in a text: (C,) strengths from 0 to 1, the mean over its tokens, by the router's place."""
    found: dict[str, Tensor] = {}
    hooks = []
    for part in model.parts:
        router = part.module
        if isinstance(router, EmotionalRouter) and router.config.head:

            def note(module: Any, given: Any, _: Any, place: str = part.place) -> None:
                found[place] = torch.sigmoid(F.linear(given[0], module.head, module.head_bias)).mean(0)

            hooks.append(router.register_forward_hook(note))
    if hooks:
        model(torch.tensor([list(ids)], device=model.embedding.weight.device), last_only=True)
    for hook in hooks:
        hook.remove()
    return found


def _heard(model: Decoder, labelled: list[tuple[Sequence[int], int | None]]) -> dict[str, Heard]:
    right: dict[str, int] = {}
    for ids, label in labelled:
        for place, strengths in foretell(model, ids).items():
            right[place] = right.get(place, 0) + (int(strengths.argmax()) == label)
    return {place: Heard(count / len(labelled), len(labelled)) for place, count in right.items()}


def _layer(place: str, router: str, counts: Tensor, observed: Observed | None, heard: Heard | None) -> LayerReport:
    shares = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    under = dict(zip(EMOTIONS, shares[1:], strict=False))
    return LayerReport(
        place,
        router,
        shares[0].tolist(),
        {name: share.tolist() for name, share in under.items()},
        {name: divergence(share, shares[0]) for name, share in under.items()},
        mutual_information(counts[1:]) if under else None,
        observed,
        heard,
    )


class _Counter:
    """Runs the model and says how often each expert was chosen in each row."""

    def __init__(self, model: Decoder) -> None:
        self.model = model
        self.seen: dict[str, Tensor] = {}

    def __call__(self, ids: Sequence[int], strengths: Tensor | None) -> dict[str, Tensor]:
        """Counts (rows, E) by place, for one text under each row of strengths (rows, C)."""
        self.seen = {}
        rows = 1 if strengths is None else strengths.shape[0]
        weight = self.model.embedding.weight
        tokens = torch.tensor([list(ids)], device=weight.device).expand(rows, -1)
        condition = None if strengths is None else {EMOTION: strengths.to(weight)}
        self.model(tokens, condition=condition, last_only=True)
        return {
            place: torch.stack([count_experts(row, int(size)) for row in experts.view(rows, -1, experts.shape[-1])])
            for place, (experts, size) in self.seen.items()
        }


@contextlib.contextmanager
def _counting(model: Decoder) -> Iterator[_Counter]:
    counter = _Counter(model)
    hooks = []
    for part in model.parts:
        if isinstance(part.module, Router):

            def note(module: Any, _: Any, routing: Any, place: str = part.place) -> None:
                counter.seen[place] = (routing.experts, module.num_experts)

            hooks.append(part.module.register_forward_hook(note))
    try:
        yield counter
    finally:
        for hook in hooks:
            hook.remove()


def _observed(counted: _Counter, own: list[tuple[Sequence[int], Mapping[str, float], Any]]) -> dict[str, Observed]:
    """By place, over (text, emotion that is told, label)."""
    if len(own) < 2:
        return {}
    labels = torch.tensor([label for _, _, label in own])
    told: dict[str, list[Tensor]] = {}
    untold: dict[str, list[Tensor]] = {}
    for ids, emotion, _ in own:
        strengths = [[NEXT_TO_NOTHING] * len(EMOTIONS), [emotion.get(name, 0.0) for name in EMOTIONS]]
        for place, counts in counted(ids, torch.tensor(strengths)).items():
            untold.setdefault(place, []).append(counts[0])
            told.setdefault(place, []).append(counts[1])
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(own), generator=generator) for _ in range(SHUFFLES)]
    found = {}
    for place in told:
        with_signal, without = torch.stack(told[place]), torch.stack(untold[place])
        shuffled = [mutual_information(_by_label(with_signal, labels[order])) for order in orders]
        found[place] = Observed(
            mutual_information(_by_label(with_signal, labels)),
            mutual_information(_by_label(without, labels)),
            sum(shuffled) / len(shuffled),
        )
    return found


def _by_label(counts: Tensor, labels: Tensor) -> Tensor:
    """Counts (texts, E) summed by label: (C, E)."""
    return counts.new_zeros(len(EMOTIONS), counts.shape[1]).index_add(0, labels.to(counts.device), counts)
