"""The layer through Luna's conformance suite. Add tests of what makes it special."""

from luna_kernel.testing import LayerConformance


class TestXyz(LayerConformance):
    """Every test of the suite."""

    component = ("ffn", "xyz")
    config = {"expansion": 2.0}
