"""The suite for layers that meet in one block: all of `LayerConformance`, asked of the block as a whole.

    class TestMoCAndSSM(BlockConformance):
        mixer = {"name": "ssm", "state_dim": 8}
        ffn = {"name": "moc", "num_experts": 4}
        modulators = ({"name": "domain_adapter", "slot": "ffn"},)

Two layers that are right alone may still disturb each other, through the context or the state that they share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from .layer_material import assert_near
from .layers import LayerConformance
from .subject import Subject


class BlockConformance(LayerConformance):
    """Subclass it with a name that begins with `Test`, and set the block's nodes; see `LayerConformance` for the rest.

    Attributes:
        mixer, ffn: nodes.
        modulators: nodes, each with its `slot`.
    """

    mixer: ClassVar[Mapping[str, Any]] = {"name": "attention"}
    ffn: ClassVar[Mapping[str, Any]] = {"name": "swiglu"}
    modulators: ClassVar[Sequence[Mapping[str, Any]]] = ()
    bf16_tolerance = 0.1  # a router reads what a mixer made in bfloat16, so a near tie may fall the other way

    test_config_round_trip = None  # type: ignore[assignment]  # a block has no configuration of its own
    test_config_imports_no_torch = None  # type: ignore[assignment]
    test_flops = None  # type: ignore[assignment]

    def __init_subclass__(cls) -> None:
        cls.component = ("block", "block")
        cls.config = {"mixer": dict(cls.mixer), "ffn": dict(cls.ffn), "modulators": [dict(m) for m in cls.modulators]}

    def test_output_parameters(self, subject: Subject) -> None:
        """With the output parameters of all parts at zero the block is the identity to the bit: how models grow."""
        block = subject.part
        parts = {"mixer": block.mixer, "ffn": block.ffn}
        parts |= {f"modulators.{k}": modulator for k, modulator in enumerate(block.modulators)}
        own = dict(block.named_parameters())
        names = [f"{place}.{name}" for place, part in parts.items() for name in part.output_parameters()]
        if any(not part.output_parameters() for part in parts.values()):
            return
        with torch.no_grad():
            for name in names:
                own[name].zero_()
        sample = self.sample()
        for mode in (False, True):
            assert torch.equal(subject.train(mode)(sample.x, sample.context()), sample.x), "it still does something"

    def test_half_a_sample_decides_nothing(self, subject: Subject) -> None:
        """Rows with a condition and rows without stand side by side, and each is what it is alone."""
        sample = self.sample()
        if not sample.condition:
            return
        sample.condition = {name: value.clone() for name, value in sample.condition.items()}
        for value in sample.condition.values():
            value[1] = 0
        whole = self.run(subject, sample)
        for row in range(3):
            assert_near(whole[[row]], self.run(subject, sample.rows([row])), self.tolerance, f"row {row} alone")
