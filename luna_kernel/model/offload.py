"""One block's weights in memory at a time, for machines that cannot hold the model.

Before a block's forward pass its weights are mapped from the file, and copied only if another device or type is wanted;
after it they are let go. The same operations on the same numbers give the same logits, to the bit. What it costs is
time: every pass reads every block again, from the system's file cache if it still has it. Embedding, last norm and
head stay. For inference only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue

from .decoder import Decoder

t = catalogue(__package__)


class BlockFile:
    """Blocks' weights in a safetensors file, opened anew for each block: closing it is what frees the pages.

    Args:
        path: the file; it must stay as it is.
        device, dtype: where and as what the weights are wanted; dtype None: as they are.
    """

    def __init__(self, path: Path, device: torch.device, dtype: torch.dtype | None) -> None:
        self.path, self.device, self.dtype = path, device, dtype
        self.identity = self._identity()

    def read(self, prefix: str, names: list[str]) -> dict[str, Tensor]:
        """The tensors `prefix + name`.

        Raises:
            IntegrityError: the file is another than at the start, or is gone.
        """
        from safetensors import SafetensorError, safe_open

        try:
            if self._identity() != self.identity:
                raise IntegrityError(t("offload.changed", file=self.path), hint=t("offload.changed.hint"))
            with safe_open(self.path, framework="pt") as file:
                return {name: self._wanted(file.get_tensor(prefix + name)) for name in names}
        except (SafetensorError, OSError) as error:
            raise IntegrityError(t("checkpoint.unreadable", file=self.path, reason=error)) from error

    def _wanted(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype if value.is_floating_point() else None)

    def _identity(self) -> tuple[int, int, int, int]:
        found = self.path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def offload_blocks(model: Decoder, path: Path, device: torch.device, dtype: torch.dtype | None) -> None:
    """Let go of the blocks' weights and bring each block's in for its own forward pass, from `path`.

    Args:
        model: opened from that file and not changed since; the rest of it is moved to `device` and `dtype`.
    """
    file = BlockFile(path, device, dtype)
    for index, block in enumerate(model.blocks):
        _attach(block, file, f"blocks.{index}.")
    for child in model.children():
        if child is not model.blocks:
            child.to(device=device, dtype=dtype)


def _attach(block: nn.Module, file: BlockFile, prefix: str) -> None:
    empty = {name: torch.empty_like(value, device="meta") for name, value in block.state_dict().items()}
    for part in block.modules():  # counters that are in no file
        for name, buffer in part.named_buffers(recurse=False):
            if name in part._non_persistent_buffers_set:
                part.register_buffer(name, buffer.to(file.device), persistent=False)

    def bring(module: nn.Module, arguments: Any) -> None:
        module.load_state_dict(file.read(prefix, list(empty)), strict=True, assign=True)

    def let_go(module: nn.Module, arguments: Any, output: Any) -> None:
        module.load_state_dict(empty, strict=True, assign=True)

    block.load_state_dict(empty, strict=True, assign=True)
    block.register_forward_pre_hook(bring)
    block.register_forward_hook(let_go, always_call=True)
