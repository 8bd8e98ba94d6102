"""The conformance suite: what every mixer, feed-forward layer, position scheme and modulator must do.

    from luna_kernel.testing import LayerConformance

    class TestMoC(LayerConformance):
        component = ("ffn", "moc")
        config = {"num_experts": 4, "top_k": 2}

The plugin must be installed (`pip install -e .`): the component is taken from the registry, as Luna does.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from luna_kernel.base.errors import ConfigError
from luna_kernel.contracts.layers import Dims, Layer, ModelPart
from luna_kernel.model.checkpoint import fill_buffers
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.registry import Registry

from .subject import DIMS, Sample, Subject, beside, inner, padded

B, T = 3, 17


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Fail if any number differs by more than `tolerance`, absolute or relative to the largest expected one."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    worst = (actual.float() - expected.float()).abs().max().item() if actual.numel() else 0.0
    bound = tolerance * max(1.0, expected.abs().max().item())
    assert worst <= bound, f"{what}: differs by {worst:.3g}, more than {bound:.3g}"


class LayerConformance:
    """Subclass it with a name that begins with `Test`, and set `component`.

    Attributes:
        component: kind and name.
        config: fields of its configuration.
        dims: the sizes to build it with.
        conditions: {name: width} of the vectors that it reads from `ctx.condition`.
        tolerance: of float32 comparisons between two ways to the same result.
        bf16_tolerance: of the norm of the difference under bfloat16 autocast, relative to the norm of the output.
        no_gradient: names of weights that no gradient reaches by design (say why beside it).
    """

    component: ClassVar[tuple[str, str]]
    config: ClassVar[Mapping[str, Any]] = {}
    dims: ClassVar[Dims] = DIMS
    conditions: ClassVar[Mapping[str, int]] = {}
    tolerance: ClassVar[float] = 1e-4
    bf16_tolerance: ClassVar[float] = 0.05
    no_gradient: ClassVar[tuple[str, ...]] = ()

    # --- material ------------------------------------------------------------------------------------------------

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

    # --- configuration -------------------------------------------------------------------------------------------

    def test_config_round_trip(self) -> None:
        """A node survives validation, JSON and validation; a misspelt field is refused."""
        component = self.registry().get(*self.component)
        config = component.make_config(self.config)
        if config is not None:
            node = json.loads(json.dumps(config.model_dump(mode="json")))
            assert component.make_config(node) == config
            assert type(config).model_config.get("frozen"), "the configuration must be frozen"
        with pytest.raises(ConfigError):
            component.make_config({**self.config, "no_such_field_": 1})

    def test_config_imports_no_torch(self) -> None:
        """Reading a configuration must stay quick."""
        target = self.registry().get(*self.component).config
        if target is None:
            return
        code = f"import sys, {target.partition(':')[0]}; sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, f"{target} imports torch, or fails: {done.stderr}"

    # --- the function --------------------------------------------------------------------------------------------

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

    # --- weights -------------------------------------------------------------------------------------------------

    def test_gradients_reach_every_weight(self, subject: Subject) -> None:
        """No weight is dead, and no gradient is broken."""
        sample = self.sample(8, 32)
        subject.train()
        sample.x.requires_grad_()
        ctx = sample.context()
        y = subject(sample.x, ctx)
        target = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
        (y * target).sum().add(sum(ctx.losses.values())).backward()
        assert sample.x.grad is not None, "no gradient reaches the input"
        assert torch.isfinite(sample.x.grad).all()
        for name, weight in subject.part.named_parameters():
            if not weight.requires_grad or name in self.no_gradient:
                continue
            assert weight.grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(weight.grad).all(), f"the gradient of {name} is not finite"
            assert weight.grad.abs().max() > 0, f"the gradient of {name} is zero"

    def test_losses_and_metrics(self, subject: Subject) -> None:
        """Losses are finite scalars that do not grow with the batch; metrics are detached."""
        means = []
        sample = self.sample(4, 32)
        for batch in (sample, sample.rows([0, 1, 2, 3] * 2)):
            ctx = batch.context()
            subject.train()(batch.x, ctx)
            means.append({name: value.detach() for name, value in ctx.losses.items()})
            for name, value in ctx.losses.items():
                assert value.shape == (), f"loss {name} is no scalar"
                assert torch.isfinite(value), f"loss {name} is not finite"
            assert not any(value.requires_grad for value in ctx.metrics.values()), "a metric carries a gradient"
        for name, value in means[0].items():
            assert_near(means[1][name], value, 1e-3, f"loss {name} of the same batch twice (it must be a mean)")

    def test_same_seed_same_weights(self) -> None:
        """Building is a function of the seed."""
        first, second = self.make(7).state_dict(), self.make(7).state_dict()
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_meta_and_reset(self) -> None:
        """Built on meta, `to_empty`, `reset_parameters`: filled by the seed alone, zero where zero at birth."""
        born = self.make(7)
        zero = {name for name, value in born.state_dict().items() if not value.any()}
        torch.manual_seed(8)
        born.reset_parameters()
        with torch.device("meta"):
            subject = Subject(*self.component, self.config, self.dims, self.registry())
        assert all(weight.is_meta for weight in subject.parameters()), "a weight ignores the device"
        subject.to_empty(device="cpu")
        with torch.no_grad():
            for value in (*subject.parameters(), *subject.buffers()):
                value.fill_(float("nan") if value.is_floating_point() else 1)
        torch.manual_seed(8)
        subject.reset_parameters()
        for name, value in subject.state_dict().items():
            assert torch.equal(value, born.state_dict()[name]), (
                f"reset_parameters does not fill {name} by the seed alone"
            )
            assert (name in zero) == (not value.any()), f"{name} is zero at birth or after a reset, not both"
        sample = self.sample()
        assert torch.equal(self.run(subject.eval(), sample), self.run(born.eval(), sample))

    def test_save_and_load(self, subject: Subject) -> None:
        """Weights that went through a file give the same output, bit for bit, in a module built on meta."""
        from safetensors.torch import load, save

        data = save({name: value.contiguous() for name, value in subject.state_dict().items()})
        with torch.device("meta"):
            other = Subject(*self.component, self.config, self.dims, self.registry())
        other.load_state_dict(load(data), strict=True, assign=True)
        fill_buffers(other)
        assert torch.equal(self.run(other.eval(), self.sample()), self.run(subject, self.sample()))

    def test_birth(self) -> None:
        """A modulator is the identity at birth; a layer that says so gives zeros."""
        subject, sample = self.make().eval(), self.sample()
        if self.component[0] == "modulator":
            assert torch.equal(self.run(subject, sample), sample.x.sin()), "a modulator must be the identity at birth"
        if isinstance(subject.part, Layer) and subject.part.zero_init_output:
            assert not self.run(subject, sample).any(), "zero_init_output is not so"

    def test_output_parameters(self, subject: Subject) -> None:
        """Where a part names them: all zero, a layer gives exact zeros and a modulator the identity, and learns."""
        if self.component[0] == "position":
            return
        own = dict(subject.part.named_parameters())
        names = subject.part.output_parameters()
        assert set(names) <= set(own), "output_parameters names what is no parameter of the part"
        if not names:
            return
        with torch.no_grad():
            for name in names:
                own[name].zero_()
        sample = self.sample()
        expected = sample.x.sin() if self.component[0] == "modulator" else torch.zeros_like(sample.x)
        for mode in (False, True):
            y = subject.train(mode)(sample.x, sample.context())
            assert torch.equal(y, expected), "with its output_parameters at zero the part still does something"
        target = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
        (y * target).sum().backward()
        for name in names:
            grad = own[name].grad
            assert grad is not None, f"no gradient reaches {name}"
            assert torch.isfinite(grad).all(), f"the gradient of {name} is not finite"
            assert grad.any(), f"the gradient of {name} is zero: it would never learn"

    def test_flops(self, subject: Subject) -> None:
        """The cost is a number that does not fall with the context."""
        if isinstance(subject.part, Layer):
            costs = [subject.part.flops_per_token(n) for n in (1, 64, 4096)]
            assert 0 <= costs[0] <= costs[1] <= costs[2]

    # --- ways to run ---------------------------------------------------------------------------------------------

    def test_bfloat16(self, subject: Subject) -> None:
        """Under bfloat16 autocast: finite, and near the float32 result, forward and backward."""
        sample = self.sample(4, 32)
        expected = self.run(subject, sample)
        with torch.autocast("cpu", torch.bfloat16):
            y = subject(sample.x.requires_grad_(), sample.context())
        assert torch.isfinite(y).all()
        error = ((y.float() - expected).norm() / expected.norm()).item()
        assert error <= self.bf16_tolerance, f"relative error {error:.3g} under bfloat16"
        y.float().square().sum().backward()
        assert sample.x.grad is not None
        assert torch.isfinite(sample.x.grad).all()
        with torch.autocast("cpu", torch.bfloat16):
            plain = sample.part(0, T)
            assert torch.isfinite(self.in_pieces(subject, plain, [5, 6])).all()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the compiler's own
    def test_compile(self, subject: Subject) -> None:
        """`torch.compile` gives the same output and the same gradients."""
        torch._dynamo.reset()
        sample = self.sample(2, 8)

        def loss(call: Callable[..., Tensor]) -> tuple[Tensor, list[Tensor | None]]:
            subject.zero_grad()
            y = call(sample.x, sample.context())
            y.square().sum().backward()  # type: ignore[no-untyped-call]
            return y.detach(), [None if w.grad is None else w.grad.clone() for w in subject.parameters()]

        eager, compiled = loss(subject), loss(torch.compile(subject))
        assert_near(compiled[0], eager[0], self.tolerance, "compiled")
        for (name, _), mine, theirs in zip(subject.named_parameters(), compiled[1], eager[1], strict=True):
            assert (mine is None) == (theirs is None), name
            if mine is not None and theirs is not None:
                assert_near(mine, theirs, self.tolerance, f"gradient of {name}, compiled")

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # of torch.distributed
    def test_fully_shard(self) -> None:
        """Two processes with `fully_shard` over gloo give the outputs and gradients of one."""
        from .sharding import compare_sharded

        compare_sharded(type(self))


def _attributes(subject: Subject) -> set[tuple[str, str, bool]]:
    """(module, name, whether it is a tensor) of every plain attribute."""
    return {
        (module, name, isinstance(value, Tensor))
        for module, part in subject.named_modules()
        for name, value in vars(part).items()
    }
