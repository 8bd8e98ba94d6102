"""What a layer's weights owe: gradients, losses, seeds, meta device, files, birth, growth, cost."""

from __future__ import annotations

import torch

from luna_kernel.contracts.layers import Layer
from luna_kernel.model.checkpoint import fill_buffers

from .layer_material import LayerMaterial, assert_near
from .subject import Subject


class WeightSuite(LayerMaterial):
    """Weights from birth to the file."""

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
