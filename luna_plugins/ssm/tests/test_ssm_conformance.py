"""The kernel's suite for layers."""

from luna_kernel.testing import LayerConformance


class TestStateSpace(LayerConformance):
    component = ("mixer", "ssm")
    config = {"state_dim": 8, "chunk_size": 8, "head_dim": 16}


class TestWithoutConvolution(LayerConformance):
    component = ("mixer", "ssm")
    config = {"state_dim": 8, "conv_width": 0}


class TestHybrid(LayerConformance):
    component = ("mixer", "hybrid")
    config = {"ssm": {"state_dim": 8, "chunk_size": 8}}
