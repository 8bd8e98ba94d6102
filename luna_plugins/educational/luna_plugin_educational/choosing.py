"""How each token of an answer was chosen: the model's logits, the filters of sampling, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luna_kernel.contracts.chat import Sampling as ChatSampling
from luna_kernel.model.sampling import adjust
from luna_kernel.model.sampling_config import Sampling

from .reading import Reading
from .tracing import Trace, logits_of


@dataclass(frozen=True)
class Choice:
    """One token of an answer."""

    id: int | None
    """The one that was taken; None: the answer was ended here, by which token nobody noted."""
    before: Tensor
    """(V,) probabilities as the model gives them."""
    after: Tensor
    """(V,) probabilities that were drawn from, after penalty, temperature and filters."""

    @property
    def rank(self) -> int:
        """Place of the taken token among the model's own, from 1."""
        assert self.id is not None
        return 1 + int((self.before > self.before[self.id]).sum())


def sampling_of(given: ChatSampling) -> Sampling:
    """A turn's sampling as the model room has it."""
    return Sampling(**{name: getattr(given, name) for name in Sampling.model_fields})


def probabilities(logits: Tensor, sampling: Sampling, seen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Probabilities (V,) before and after penalty, temperature and filters, for logits (V,) after the tokens `seen`.

    At temperature 0 all goes to the likeliest one.
    """
    mask = torch.zeros(1, logits.shape[-1], dtype=torch.bool, device=logits.device)
    mask[0, list(seen)] = True
    adjusted = adjust(logits[None], sampling, mask)[0]
    if sampling.temperature == 0:
        after = torch.zeros_like(adjusted)
        after[adjusted.argmax()] = 1.0
    else:
        after = adjusted.softmax(-1)
    return logits.float().softmax(-1), after


@torch.no_grad()
def choices(reading: Reading, seen: Trace, limit: int | None = None) -> list[Choice]:
    """The choices of an answer, `limit` at most; the end of it is the last one, if the model ended it."""
    sampling = sampling_of(reading.turn.sampling)
    first = len(reading.prompt) - 1
    ended: list[int | None] = [None] if reading.turn.stop_reason == "end" and not reading.rebuilt else []
    found = []
    for place, id_ in enumerate([*reading.answer, *ended][:limit]):
        logits = logits_of(reading.model, seen.hidden[first + place])
        before, after = probabilities(logits, sampling, seen.ids[: first + place + 1])
        found.append(Choice(id_, before, after))
    return found
