"""What the layer suites share: the subject at birth and stirred, its inputs, a pass, a pass in pieces, a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from luna_kernel.contracts.layers import Dims
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.registry import Registry

from .subject import DIMS, Sample, Subject

B, T = 3, 17


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Fail if any number differs by more than `tolerance`, absolute or relative to the largest expected one."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    worst = (actual.float() - expected.float()).abs().max().item() if actual.numel() else 0.0
    bound = tolerance * max(1.0, expected.abs().max().item())
    assert worst <= bound, f"{what}: differs by {worst:.3g}, more than {bound:.3g}"


class LayerMaterial:
    """The attributes are those of `LayerConformance`, which says what they mean."""

    component: ClassVar[tuple[str, str]]
    config: ClassVar[Mapping[str, Any]] = {}
    dims: ClassVar[Dims] = DIMS
    conditions: ClassVar[Mapping[str, int]] = {}
    tolerance: ClassVar[float] = 1e-4
    bf16_tolerance: ClassVar[float] = 0.05
    no_gradient: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def registry(cls) -> Registry:
        """The components of the plugins that are on; override it to examine a layer that is in no plugin."""
        return load_plugins().registry

    def make(self, seed: int = 0) -> Subject:
        """As it is at birth."""
        torch.manual_seed(seed)
        return Subject(*self.component, self.config, self.dims, self.registry())

    @pytest.fixture
    def subject(self) -> Subject:
        """With weights like a trained one's, in eval mode."""
        subject = self.make()
        subject.stir()
        return subject.eval()

    def sample(self, rows: int = B, length: int = T, seed: int = 0) -> Sample:
        """A batch of inputs."""
        return Sample.random(rows, length, self.dims, self.conditions, seed)

    @staticmethod
    def run(subject: Subject, sample: Sample, state: Any = None, **options: Any) -> Tensor:
        """One pass without gradients."""
        with torch.no_grad():
            return subject(sample.x, sample.context(state, **options))  # type: ignore[no-any-return]

    def in_pieces(self, subject: Subject, sample: Sample, cuts: list[int]) -> Tensor:
        """One state, several passes, cut before the tokens in `cuts`."""
        length = sample.x.shape[1]
        state = subject.make_state(sample.x.shape[0], length)
        edges = [0, *cuts, length]
        parts = [self.run(subject, sample.part(a, b), state) for a, b in pairwise(edges)]
        return torch.cat(parts, 1)
