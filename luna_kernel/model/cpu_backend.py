"""The CPU as a backend: always there, and what it proposes for a model that is too much for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base import machine
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.contracts.backends import Backend, ModelFacts, Probe, Proposal

if TYPE_CHECKING:
    import torch

t = catalogue(__package__)

ROOM = 0.8
"""Share of the available memory that weights and caches may have; the rest is for activations and the system."""
LEAST_CACHE = 256
"""Tokens below which a cache limit is not worth proposing."""
ENOUGH_TOKENS = 5.0
"""Tokens per second about as fast as people read Portuguese; below it fewer experts are worth proposing."""
NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors that multiply in bfloat16; others emulate it, many times slower."""


class CpuBackend(Backend):
    """The processor."""

    def probe(self) -> Probe:
        """Always available, rank 0."""
        found = machine.cpu()
        return Probe(True, f"{found['model']}, {found['cores']} × CPU")

    def device(self) -> torch.device:
        """`cpu`."""
        import torch

        return torch.device("cpu")

    def proposals(self, facts: ModelFacts) -> list[Proposal]:
        """Memory first, then the arithmetic."""
        flags = machine.cpu()["flags"]
        speed = machine.memory_speed() if facts.top_k > 1 else None
        return propose(facts, machine.memory()["available"], set(flags) if isinstance(flags, list) else set(), speed)


def propose(
    facts: ModelFacts, available: int | None, flags: set[str], read_speed: float | None = None
) -> list[Proposal]:
    """The proposals for a machine with `available` bytes of memory, None if unknown, and these processor flags.

    Args:
        read_speed: bytes per second from memory; None: unknown.
    """
    found: list[Proposal] = []
    scale = 1.0
    if facts.low_share > 0.5 and not flags & NATIVE_BF16:
        found.append(Proposal("precision", "fp32", t("propose.precision")))
        scale = 2.0
    if available is None:
        return found + _fewer_experts(facts, scale, read_speed)
    room = int(available * ROOM)
    held = int(facts.weights_bytes * scale)
    if held > room:
        sizes = {"need": _size(held), "free": _size(available), "resident": _size(int(facts.resident_bytes * scale))}
        found.append(Proposal("low_memory", True, t("propose.low_memory", **sizes)))
        held = int(facts.resident_bytes * scale)
    else:  # block by block every expert is read, chosen or not
        found += _fewer_experts(facts, scale, read_speed)
    per_token = int(facts.cache_bytes_per_token * scale)
    tokens = max(0, room - held) // per_token if per_token else facts.context_length
    if LEAST_CACHE <= tokens < facts.context_length:
        full = _size(per_token * facts.context_length)
        limit = tokens // 64 * 64
        reason = t("propose.cache_limit", full=full, context=facts.context_length, room=_size(max(0, room - held)))
        found.append(Proposal("cache_limit", limit, reason))
    return found


def _fewer_experts(facts: ModelFacts, scale: float, read_speed: float | None) -> list[Proposal]:
    """As many experts as leave a token read at `ENOUGH_TOKENS` a second, at least one; nothing where all can work.

    Each token of an answer reads every weight that works on it once, so memory bounds the speed from above.
    """
    if read_speed is None or facts.top_k < 2:
        return []
    read = [
        scale * (facts.weights_bytes - facts.resting_bytes - less * facts.expert_bytes) for less in range(facts.top_k)
    ]
    speeds = [read_speed / max(1.0, size) for size in read]
    if speeds[0] >= ENOUGH_TOKENS:
        return []
    less = next((less for less, speed in enumerate(speeds) if speed >= ENOUGH_TOKENS), facts.top_k - 1)
    figures = {"read": _size(int(read[0])), "before": number_text(speeds[0], 1), "after": number_text(speeds[less], 1)}
    return [Proposal("experts_per_token", facts.top_k - less, t("propose.experts_per_token", **figures))]


def _size(count: int) -> str:
    return f"{number_text(count / 2**30, 1)} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
