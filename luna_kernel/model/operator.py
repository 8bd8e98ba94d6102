"""Operators of one's own that cost nothing where nobody watches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


class Operator:
    """A function on tensors that gradients and the compiler see as one operator; see `operator`."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.defined = torch.library.custom_op(name, function, mutates_args=())
        self.function = function
        self.register_fake = self.defined.register_fake
        self.register_autograd = self.defined.register_autograd
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        """What the function gives."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return self.defined(*args)
        return self.function(*args)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make the function below an operator, `namespace::name`, that changes none of its arguments.

    Without gradients and the compiler the function itself is called: the first call of an operator imports the
    compiler (a second and 70 MB in a chat that will never compile), and each one costs three microseconds.
    A backward pass must be a plain `torch.library.custom_op`: it runs without gradients while the compiler traces it.
    """
    return functools.partial(Operator, name)
