"""The kernel's own layers pass the suite that plugins pass."""

import dataclasses

from luna_kernel.testing import LayerConformance
from luna_kernel.testing.subject import DIMS

MHA = dataclasses.replace(DIMS, num_kv_heads=4)


class TestGroupedQueryAttention(LayerConformance):
    component = ("mixer", "attention")


class TestMultiHeadAttention(LayerConformance):
    component = ("mixer", "attention")
    dims = MHA
    config = {"qkv_bias": True, "out_bias": True}


class TestAttentionWithNorms(LayerConformance):
    component = ("mixer", "attention")
    config = {"qk_norm": True}


class TestSlidingWindow(LayerConformance):
    component = ("mixer", "attention")
    config = {"window": 5}


class TestSinks(LayerConformance):
    component = ("mixer", "attention")
    config = {"window": 5, "sinks": 2}


class TestYarn(LayerConformance):
    component = ("position", "rope")
    config = {"scaling": "yarn", "factor": 4.0, "original_max_positions": 32}


class TestSwiGLU(LayerConformance):
    component = ("ffn", "swiglu")


class TestRotaryPosition(LayerConformance):
    component = ("position", "rope")
