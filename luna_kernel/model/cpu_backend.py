"""The CPU as a backend: always there, and what it proposes for a model that is too much for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base import machine
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.backends import Backend, ModelFacts, Probe, Proposal

if TYPE_CHECKING:
    import torch

t = catalogue(__package__)

ROOM = 0.8
"""Share of the available memory that weights and caches may have; the rest is for activations and the system."""
LEAST_CACHE = 256
"""Tokens below which a cache limit is not worth proposing."""
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
        return propose(facts, machine.memory()["available"], set(flags) if isinstance(flags, list) else set())


def propose(facts: ModelFacts, available: int | None, flags: set[str]) -> list[Proposal]:
    """The proposals for a machine with `available` bytes of memory, None if unknown, and these processor flags."""
    found: list[Proposal] = []
    scale = 1.0
    if facts.low_share > 0.5 and not flags & NATIVE_BF16:
        found.append(Proposal("precision", "fp32", t("propose.precision")))
        scale = 2.0
    if available is None:
        return found
    room = int(available * ROOM)
    held = int(facts.weights_bytes * scale)
    if held > room:
        sizes = {"need": _size(held), "free": _size(available), "resident": _size(int(facts.resident_bytes * scale))}
        found.append(Proposal("low_memory", True, t("propose.low_memory", **sizes)))
        held = int(facts.resident_bytes * scale)
    per_token = int(facts.cache_bytes_per_token * scale)
    tokens = max(0, room - held) // per_token if per_token else facts.context_length
    if LEAST_CACHE <= tokens < facts.context_length:
        full = _size(per_token * facts.context_length)
        limit = tokens // 64 * 64
        reason = t("propose.cache_limit", full=full, context=facts.context_length, room=_size(max(0, room - held)))
        found.append(Proposal("cache_limit", limit, reason))
    return found


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
