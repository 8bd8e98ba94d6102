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
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from luna_kernel.base.errors import ConfigError

from .layer_function import FunctionSuite
from .layer_material import T, assert_near
from .layer_weights import WeightSuite
from .subject import Sample, Subject


class LayerConformance(FunctionSuite, WeightSuite):
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

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_gpu(self, subject: Subject) -> None:
        """The same on a GPU as on the processor: outputs, gradients, decoding in pieces; near it in bfloat16."""
        sample = self.sample(4, 32)

        def passed(there: Subject, given: Sample) -> tuple[Tensor, list[Tensor | None]]:
            there.zero_grad()
            y = there(given.x, given.context())
            y.square().mean().backward()
            return y.detach().cpu(), [None if w.grad is None else w.grad.cpu() for w in there.parameters()]

        here = passed(subject, sample)
        there, given = copy.deepcopy(subject).cuda(), sample.to("cuda")
        y, gradients = passed(there, given)
        assert_near(y, here[0], self.tolerance, "on the GPU")
        for (name, _), mine, theirs in zip(subject.named_parameters(), gradients, here[1], strict=True):
            assert (mine is None) == (theirs is None), name
            if mine is not None and theirs is not None:
                assert_near(mine, theirs, self.tolerance, f"gradient of {name} on the GPU")
        pieces = self.in_pieces(there, given.part(0, T), [5, 6])
        assert_near(pieces.cpu(), self.in_pieces(subject, sample.part(0, T), [5, 6]), self.tolerance, "in pieces")
        with torch.autocast("cuda", torch.bfloat16):
            low = there(given.x, given.context())
        error = ((low.float().cpu() - here[0]).norm() / here[0].norm()).item()
        assert error <= self.bf16_tolerance, f"relative error {error:.3g} under bfloat16 on the GPU"
        low.float().square().mean().backward()
        assert all(torch.isfinite(w.grad).all() for w in there.parameters() if w.grad is not None)

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
