"""Building a model for its shapes alone: on the meta device, and without the start values that nobody would see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = ("normal_", "uniform_", "bernoulli_", "exponential_", "log_normal_", "random_")
_RANDOM = frozenset(
    [function for name, function in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")]
    + [getattr(Tensor, name) for name in _DRAWS]
)


class _NothingDrawn(TorchFunctionMode):
    """On meta, functions that fill a tensor at random hand it back as it is."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if func in _RANDOM and isinstance(filled, Tensor) and filled.is_meta:
            return filled
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """What is built inside has shapes and no values, wherever `nn.Module` would make its weights.

    PyTorch draws random numbers on meta by a function in Python which imports its compiler: a hundred megabytes and
    more than a second, for values that do not exist.
    """
    with torch.device("meta"), _NothingDrawn():
        yield
