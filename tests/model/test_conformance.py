"""The conformance suite catches what it is there for: layers that are wrong in one way each."""

import inspect

import pytest
import torch
from torch import nn

from luna_kernel.contracts.layers import Layer
from luna_kernel.plugins.registry import Registry
from luna_kernel.testing.layers import LayerConformance


class Base(Layer):
    """A right layer: a leaky sum over the segment, with a state."""

    def __init__(self, config, dims):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dims.d_model))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.weight)

    def make_state(self, batch, max_length, dtype, device):
        return {"sum": None, "segment": None}

    def forward(self, x, ctx):
        past = segment = None
        if ctx.state is not None:
            past, segment = ctx.state["sum"], ctx.state["segment"]
        ids = torch.ones(x.shape[:2], dtype=torch.int64) if ctx.segment_ids is None else ctx.segment_ids
        out = []
        for t in range(x.shape[1]):
            here, real = ids[:, t], ids[:, t] > 0
            new = x[:, t] if past is None else x[:, t] + 0.5 * past * (here == segment)[:, None]
            past = new if past is None else torch.where(real[:, None], new, past)
            segment = here if segment is None else torch.where(real, here, segment)
            out.append(new)
        if ctx.state is not None:
            ctx.state["sum"], ctx.state["segment"] = past, segment
        return torch.stack(out, 1) * self.weight


class SeesTheFuture(Base):
    def forward(self, x, ctx):
        return super().forward(x, ctx) + 1e-3 * x.mean(1, keepdim=True)


class MixesRows(Base):
    def forward(self, x, ctx):
        return super().forward(x, ctx) + 1e-2 * x.mean(0, keepdim=True)


class ForgetsItsState(Base):
    def make_state(self, batch, max_length, dtype, device):
        return None


class KeepsItsState(Base):
    def __init__(self, config, dims):
        super().__init__(config, dims)
        self.memory = None

    def forward(self, x, ctx):
        y = super().forward(x, ctx)
        if ctx.state is not None and self.memory is not None and self.memory.shape == x[:, 0].shape:
            y = y + 1e-2 * self.memory[:, None]
        self.memory = x[:, -1].detach()
        return y


class IgnoresSegments(Base):
    def forward(self, x, ctx):
        ctx.segment_ids = None
        return super().forward(x, ctx)


class DeadWeight(Base):
    def __init__(self, config, dims):
        super().__init__(config, dims)
        self.dead = nn.Parameter(torch.zeros(3))


class UnfilledWeight(Base):
    def reset_parameters(self):
        if self.weight.device.type != "meta" and not torch.isfinite(self.weight).all():
            return
        nn.init.normal_(self.weight)


class OwnDevice(Base):
    def __init__(self, config, dims):
        super().__init__(config, dims)
        self.weight = nn.Parameter(torch.ones(dims.d_model, device="cpu"))


class LossThatGrows(Base):
    def forward(self, x, ctx):
        ctx.add_loss("bad/loss", x.square().sum() * self.weight[0])
        return super().forward(x, ctx)


class FalselyZero(Base):
    zero_init_output = True


class Changes(Base):
    def __init__(self, config, dims):
        super().__init__(config, dims)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, ctx):
        self.calls += 1
        return super().forward(x, ctx)


class Found:
    """A registry without a module to import from: test modules have no importable name."""

    name = "examined"

    def __init__(self, layer):
        self.layer = layer

    def load(self):
        return self.layer

    def make_config(self, node=None, **_):
        if set(node or {}) - {"name"}:
            from luna_kernel.base.errors import ConfigError

            raise ConfigError("takes none")

    config = None


def failing(layer):
    """Names of the suite's quick tests that a layer fails."""

    class Suite(LayerConformance):
        component = ("mixer", "examined")

        @classmethod
        def registry(cls):
            registry = Registry()
            registry.get = lambda *_, **__: Found(layer)
            return registry

    failed = set()
    for name, function in inspect.getmembers(Suite, inspect.isfunction):
        if not name.startswith("test_"):
            continue
        marks = getattr(function, "pytestmark", [])
        if any(mark.name == "slow" or (mark.name == "skipif" and mark.args[0]) for mark in marks):
            continue
        cases = [{}]
        for mark in marks:
            if mark.name == "parametrize":
                cases = [{mark.args[0]: value} for value in mark.args[1]]
        for case in cases:
            examined = Suite()
            if "subject" in inspect.signature(function).parameters:
                try:
                    subject = examined.make()
                    subject.stir()
                except Exception:
                    failed.add(name)
                    continue
                case = {**case, "subject": subject.eval()}
            try:
                function(examined, **case)
            except Exception:
                failed.add(name)
    return failed


def test_a_right_layer_passes():
    assert failing(Base) == set()


@pytest.mark.parametrize(
    ("layer", "caught_by"),
    [
        (SeesTheFuture, {"test_causality", "test_prefix", "test_token_by_token"}),
        (MixesRows, {"test_batch_order"}),
        (ForgetsItsState, {"test_token_by_token", "test_split_prefill", "test_long_decode"}),
        (KeepsItsState, {"test_use_leaves_no_trace", "test_requests_do_not_mix"}),
        (IgnoresSegments, {"test_padding", "test_packed"}),
        (DeadWeight, {"test_gradients_reach_every_weight"}),
        (UnfilledWeight, {"test_meta_and_reset"}),
        (OwnDevice, {"test_meta_and_reset"}),
        (LossThatGrows, {"test_losses_and_metrics"}),
        (FalselyZero, {"test_birth"}),
        (Changes, {"test_use_leaves_no_trace"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_layer_is_caught(layer, caught_by):
    assert caught_by <= failing(layer)
