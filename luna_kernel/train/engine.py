"""Where the arithmetic happens: device, precision, and this process's share of each step.

With `torch.distributed` initialised, every process plans the same batches and computes its own rows; gradients are
summed, not averaged, since losses are already divided by the valid tokens of the whole step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from luna_kernel.base.device import choose_device
from luna_kernel.base.messages import catalogue
from luna_kernel.data.batches import Batch

t = catalogue(__package__)


@dataclass(frozen=True)
class TensorBatch:
    """A micro-batch on the device; see `Batch`."""

    tokens: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64."""
    weights: Tensor | None
    """(B, T) bool, whether the target counts; None: all do."""
    segment_ids: Tensor | None
    """(B, T) int64; None where each row is one segment without padding."""
    positions: Tensor | None
    """(B, T) int64; None with `segment_ids`."""
    num_targets: int
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    """(B, T, C) by name; (B, C) where no row holds two segments."""


@dataclass(frozen=True)
class Engine:
    """One process's arithmetic."""

    device: torch.device
    dtype: torch.dtype | None = None
    """What autocast computes in; None: float32."""
    choice: tuple[str, ...] = ()
    """What was chosen and why, for people."""

    @property
    def rank(self) -> int:
        """Which process this is."""
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def world_size(self) -> int:
        """How many processes share each step."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @classmethod
    def choose(cls, device: str = "auto", precision: str = "auto") -> Engine:
        """Decide device and precision. What was asked for by name is taken or refused, never replaced.

        Raises:
            UsageError: the device is not there.
        """
        chosen = choose_device(device)
        native, reason = _has_bf16(torch.device(chosen.name).type)
        if precision == "auto":
            dtype = torch.bfloat16 if native else None
        else:
            dtype = torch.bfloat16 if precision == "bf16" else None
            reason = t("engine.asked")
        name = "bf16" if dtype is not None else "fp32"
        choice = (
            t("engine.device", device=chosen.name, reason=chosen.reason),
            t("engine.precision", precision=name, reason=reason),
        )
        return cls(torch.device(chosen.name), dtype, choice)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of a forward pass."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def micro_batches(self, batch: Batch, size: int) -> Iterator[TensorBatch]:
        """This process's rows of a step's batch, `size` at a time, on the device; rows of padding alone are left out.

        Which rows a process gets depends on their order alone, so any number of processes computes the same sum.
        """
        rows = len(batch.tokens)
        begin, end = rows * self.rank // self.world_size, rows * (self.rank + 1) // self.world_size
        for first in range(begin, end, size):
            part = batch.rows(first, min(first + size, end))
            used = int((part.segment_ids[:, 0] > 0).sum())  # rows are filled from the first one on
            if used:
                yield self.move(part.rows(0, used))

    def move(self, batch: Batch) -> TensorBatch:
        """The batch as tensors on the device."""

        def tensor(array: object) -> Tensor:
            return torch.as_tensor(array).to(self.device, non_blocking=True)

        plain = bool((batch.segment_ids == 1).all())
        alone = bool((batch.segment_ids <= 1).all())  # then the first token, which is never padding, speaks for its row
        condition = {name: values[:, 0] if alone else values for name, values in batch.conditions.items()}
        return TensorBatch(
            tensor(batch.tokens),
            tensor(batch.targets),
            None if batch.num_targets == batch.weights.size else tensor(batch.weights > 0),
            None if plain else tensor(batch.segment_ids),
            None if plain else tensor(batch.positions),
            batch.num_targets,
            {name: tensor(values) for name, values in condition.items()},
        )

    def sum_over_processes(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def sum_gradients(self, model: nn.Module) -> None:
        """Sum gradients over processes; a parameter that only some of them used counts 0 elsewhere."""
        if self.world_size > 1:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    dist.all_reduce(parameter.grad)


def _has_bf16(kind: str) -> tuple[bool, str]:
    """Whether the device computes in bfloat16 itself, and a word about it."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False), "CUDA"
    if kind == "cpu":
        for name, probe in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported")):
            function = getattr(torch.cpu, probe, None)
            if function is not None and function():
                return True, name
    return False, t("engine.no_bf16")
