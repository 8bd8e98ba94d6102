"""What a layer computes: shapes, conditions, causality, one pass as token by token, padding, packing, requests."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from luna_kernel.contracts.layers import ModelPart

from .layer_material import B, LayerMaterial, T, assert_near
from .subject import Sample, Subject, beside, inner, padded


class FunctionSuite(LayerMaterial):
    """The outputs, with a decode state and without."""

    def test_shapes(self, subject: Subject) -> None:
        """(B, T, D) to (B, T, D), of the input's type, for one token and for many."""
        for rows, length in ((1, 1), (1, 5), (B, 1), (B, T)):
            y = self.run(subject, self.sample(rows, length))
            assert y.shape == (rows, length, self.dims.d_model)
            assert y.dtype == torch.float32
            assert torch.isfinite(y).all()

    def test_conditions_per_row(self, subject: Subject) -> None:
        """A condition (B, C) is the same as (B, T, C) with equal rows."""
        sample = self.sample()
        assert_near(self.run(subject, sample, per_row=True), self.run(subject, sample), 1e-6, "condition as (B, C)")

    def test_conditions_are_declared(self, subject: Subject) -> None:
        """What it says that it reads is what this suite gives it."""
        found: dict[str, int] = {}
        for module in subject.part.modules():
            if isinstance(module, ModelPart):
                found |= module.conditions()
        assert found == dict(self.conditions), "`conditions()` of the layer and `conditions` of its suite differ"

    def test_missing_conditions(self, subject: Subject) -> None:
        """A condition that nobody gives counts as zeros."""
        sample = self.sample()
        zeros = {name: torch.zeros_like(value) for name, value in sample.condition.items()}
        given = self.run(subject, Sample(sample.x, zeros, sample.segments, sample.positions))
        missing = self.run(subject, Sample(sample.x, None, sample.segments, sample.positions))
        assert_near(missing, given, 1e-6, "without its conditions")

    def test_causality(self, subject: Subject) -> None:
        """Later tokens change nothing that came before."""
        sample = self.sample()
        before = self.run(subject, sample)
        for at in (1, T // 2, T - 1):
            for scale in (1.0, 30.0):
                changed = self.sample()
                other = self.sample(seed=5)
                changed.x = torch.cat([sample.x[:, :at], scale * other.x[:, at:]], 1)
                changed.tokens = torch.cat([sample.tokens[:, :at], other.tokens[:, at:]], 1)
                after = self.run(subject, changed)
                assert_near(after[:, :at], before[:, :at], 1e-6, f"outputs before token {at}, which was changed")

    def test_prefix(self, subject: Subject) -> None:
        """A prefix gives what it gives inside the whole."""
        sample = self.sample()
        whole = self.run(subject, sample)
        for end in (1, T // 2, T - 1):
            assert_near(self.run(subject, sample.part(0, end)), whole[:, :end], self.tolerance, f"prefix of {end}")

    def test_token_by_token(self, subject: Subject) -> None:
        """One pass is what a decode state gives token by token."""
        sample = self.sample()
        whole = self.run(subject, sample)
        assert_near(self.in_pieces(subject, sample, list(range(1, T))), whole, self.tolerance, "token by token")

    @pytest.mark.parametrize("cuts", [[1], [5], [T - 1], [3, 4, 11]], ids=str)
    def test_split_prefill(self, subject: Subject, cuts: list[int]) -> None:
        """Prefill in any number of pieces gives the same."""
        sample = self.sample()
        assert_near(self.in_pieces(subject, sample, cuts), self.run(subject, sample), self.tolerance, f"cuts {cuts}")

    def test_long_decode(self, subject: Subject) -> None:
        """A state that has grown past its first size gives the same."""
        sample = self.sample(2, self.dims.max_positions)
        cuts = [30, *range(60, 75), 100]
        assert_near(self.in_pieces(subject, sample, cuts), self.run(subject, sample), self.tolerance, "long decode")

    def test_batch_order(self, subject: Subject) -> None:
        """Rows know nothing of each other."""
        sample = self.sample()
        whole = self.run(subject, sample)
        order = [2, 0, 1]
        assert_near(self.run(subject, sample.rows(order)), whole[order], self.tolerance, "another order of rows")
        assert_near(self.run(subject, sample.rows([1])), whole[[1]], self.tolerance, "a row on its own")

    @pytest.mark.parametrize("side", ["right", "left", "both"])
    def test_padding(self, subject: Subject, side: str) -> None:
        """What stands in the padding does not matter."""
        sample = self.sample()
        left = {"right": [0, 0, 0], "left": [4, 4, 4], "both": [0, 1, 4]}[side]
        y = self.run(subject, padded(sample, left, [4 - n for n in left]))
        assert torch.isfinite(y).all(), "outputs at padding must be finite"
        assert_near(inner(y, left, T), self.run(subject, sample), self.tolerance, f"padding {side}")

    def test_padding_with_state(self, subject: Subject) -> None:
        """Prompts of different length, padded on the left, then decoded together."""
        sample = self.sample()
        left = [0, 1, 4]
        wide = padded(sample, left, [4 - n for n in left])
        y = self.in_pieces(subject, wide, [6, 7, 8, 15])
        assert_near(inner(y, left, T), self.run(subject, sample), self.tolerance, "padded, with a state")

    def test_packed(self, subject: Subject) -> None:
        """Samples packed in one row are what they are apart."""
        samples = [self.sample(length=n, seed=n) for n in (5, 1, T, 8)]
        apart = torch.cat([self.run(subject, sample) for sample in samples], 1)
        packed = beside(samples)
        assert_near(self.run(subject, packed), apart, self.tolerance, "packed")
        assert_near(self.in_pieces(subject, packed, [3, 6, 20]), apart, self.tolerance, "packed, in pieces")

    # --- state ---------------------------------------------------------------------------------------------------

    def test_requests_do_not_mix(self, subject: Subject) -> None:
        """Two requests of different size, their passes interleaved, give what each gives alone."""
        first, second = self.sample(2, seed=1), self.sample(3, seed=2)
        cuts = [4, 5, 6, 12]
        alone = [self.in_pieces(subject, first, cuts), self.in_pieces(subject, second, cuts)]
        states = [subject.make_state(2, T), subject.make_state(3, T)]
        parts: list[list[Tensor]] = [[], []]
        for a, b in zip([0, *cuts], [*cuts, T], strict=True):
            for i, sample in enumerate((first, second)):
                parts[i].append(self.run(subject, sample.part(a, b), states[i]))
        for i in range(2):
            assert_near(torch.cat(parts[i], 1), alone[i], 1e-6, f"request {i}, interleaved")

    def test_use_leaves_no_trace(self, subject: Subject) -> None:
        """A pass leaves the module's weights, buffers and attributes as they were."""
        before = copy.deepcopy(subject.state_dict())
        names = _attributes(subject)
        expected = self.run(subject, self.sample())
        self.in_pieces(subject, self.sample(2, seed=3), [4])
        after = subject.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before), "a buffer changed in eval mode"
        grown = _attributes(subject) - names
        assert not grown, f"the module remembers: {sorted(grown)}"
        assert torch.equal(self.run(subject, self.sample()), expected), "the same input gave another output"

    def test_snapshot(self, subject: Subject) -> None:
        """A state brought back to an earlier moment goes on as it did from there."""
        from luna_kernel.model.state import put_state, take_state

        sample = self.sample()
        state = subject.make_state(B, 4 * T)
        self.run(subject, sample.part(0, 9), state)
        taken = take_state(state)
        expected = self.run(subject, sample.part(9, T), state)
        for _ in range(2):
            state = put_state(state, taken)
            self.run(subject, self.sample(seed=4).part(9, 12), state)
            state = put_state(state, taken)
            assert_near(self.run(subject, sample.part(9, T), state), expected, 1e-6, "after going back")


def _attributes(subject: Subject) -> set[tuple[str, str, bool]]:
    """(module, name, whether it is a tensor) of every plain attribute."""
    return {
        (module, name, isinstance(value, Tensor))
        for module, part in subject.named_modules()
        for name, value in vars(part).items()
    }
