"""A matrix that knows its own first values, and the faster of two products with it.

PyTorch takes MKL for products in float32. On AMD's processors with AVX-512 MKL uses half of their width, oneDNN, which
PyTorch carries too, all of it: `benchmarks/float32_products.py` shows both. So without gradients, where several rows
meet a large matrix (a prompt, a batch of requests), oneDNN multiplies there; in training it multiplies everything; and
anywhere it multiplies with a matrix that was packed for it (`packed.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luna_kernel.base.machine import cpu

FEWEST_ROWS, FEWEST_PRODUCTS = 4, 3 << 19
"""Rows, and rows times numbers of the matrix, from which oneDNN is faster there."""
FEWEST_ALONE = 9 << 16
"""Numbers of the matrix from which it is for one row: those that come from memory, where MKL waits for them."""


@dataclass(frozen=True)
class Packed:
    """A matrix once more, in oneDNN's own order; it hangs on the matrix as `packed`."""

    matrix: Tensor
    version: int
    """Of the matrix when it was packed; once that has changed, this is no longer its like."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (…, in), weight (out, in), bias (out,) to (…, out), by the faster library."""
    plain = torch.is_grad_enabled() or x.dtype != torch.float32 or x.device.type != "cpu"
    if plain or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or weight.dtype != x.dtype:
        return F.linear(x, weight, bias)
    rows = x.numel() // max(1, x.shape[-1])
    packed: Packed | None = getattr(weight, "packed", None)
    if packed is not None and packed.version == weight._version and (rows > 1 or weight.numel() >= FEWEST_ALONE):
        return torch.ops.mkldnn._linear_pointwise(x, packed.matrix, bias, "none", [], "")  # type: ignore[no-any-return]
    few = weight.numel() < FEWEST_ALONE if rows == 1 else rows < FEWEST_ROWS or rows * weight.numel() < FEWEST_PRODUCTS
    if few or not onednn_is_faster():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is a processor on which it is, and a PyTorch that has its product and gives the same by it."""
    found = cpu()
    if "AMD" not in str(found["model"]) or "avx512f" not in (found["flags"] or ()):  # type: ignore[operator]
        return False
    x, weight, bias = torch.randn(4, 16), torch.randn(8, 16), torch.randn(8)
    try:
        y = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError):  # not in every build, and no promise of PyTorch's
        return False
    return torch.allclose(y, F.linear(x, weight, bias), atol=1e-5)


@contextmanager
def float32_by_onednn() -> Iterator[bool]:
    """Have oneDNN take all of PyTorch's float32 products inside the block, where it is faster; yields whether it does.

    For work with many rows, as training is: a single row is faster by MKL. The setting is the whole process's, and what
    the user has set stays.
    """
    settings = _settings()
    before = getattr(settings, "fp32_precision", None)
    if before != "none" or not onednn_is_faster() or not _onednn_is_exact():
        yield False
        return
    settings.fp32_precision = _BY_ONEDNN
    try:
        yield True
    finally:
        settings.fp32_precision = before


def has_kernel_per_shape(x: Tensor, *, gradients: bool) -> bool:
    """Whether products of x go by oneDNN, which prepares each shape when it first sees it. That takes half a
    millisecond, more than a product of a hundred rows.

    Args:
        gradients: the products are PyTorch's; without, those of `linear`.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)
    return float32_goes_by_onednn() or (not gradients and onednn_is_faster())


def float32_goes_by_onednn() -> bool:
    """Whether this runs inside `float32_by_onednn`, and it does what it says."""
    return getattr(_settings(), "fp32_precision", None) == _BY_ONEDNN


_BY_ONEDNN = "bf16"
"""The only setting of PyTorch's that gives float32 products to oneDNN. It allows oneDNN to round to bfloat16 in tiles
(AMX); without tiles oneDNN multiplies in float32, which `_onednn_is_exact` makes sure of."""


def _settings() -> Any:
    """PyTorch's settings of matrix products by oneDNN; None before PyTorch 2.9."""
    return getattr(torch.backends.mkldnn, "matmul", None)


@functools.cache
def _onednn_is_exact() -> bool:
    """Whether products are in float32 with that setting here: no tiles, and errors of a few products say the same."""
    if any(flag.startswith("amx") for flag in cpu()["flags"] or ()):  # type: ignore[attr-defined]
        return False
    settings = _settings()
    before = settings.fp32_precision
    generator = torch.Generator().manual_seed(0)
    try:
        settings.fp32_precision = _BY_ONEDNN
        for shape in ((64, 512, 128), (512, 64, 1024), (3, 300, 1), (1, 2048, 40)):
            a, b = (torch.randn(*shape[i : i + 2], generator=generator) for i in (0, 1))
            exact, size = a.double() @ b.double(), shape[1] ** 0.5
            for found in (a @ b, (b.t().contiguous() @ a.t().contiguous()).t(), torch.bmm(a[None], b[None])[0]):
                if (found.double() - exact).abs().max() > 1e-5 * size:  # rounded to bfloat16 it is a hundred times that
                    return False
    finally:
        settings.fp32_precision = before
    return True


class Linear(nn.Linear):
    """x (…, in) to (…, out), filled from a normal distribution of a given standard deviation; the bias from zeros.

    Args:
        std: `dims.init_std`, or `dims.residual_std` for a matrix that writes into the residual stream.
    """

    def __init__(self, in_features: int, out_features: int, *, std: float, bias: bool = False) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, in) to (…, out)."""
        return linear(x, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """Fill weight and bias afresh."""
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
