"""For authors of plugins: the conformance suite that every layer passes.

from luna_kernel.testing import LayerConformance

class TestMoC(LayerConformance):
    component = ("ffn", "moc")
    config = {"num_experts": 4, "top_k": 2}
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conformance import LayerConformance

__all__ = ["LayerConformance"]


def __getattr__(name: str) -> Any:
    """Import the suite, and with it torch, on first use only."""
    if name == "LayerConformance":
        from .conformance import LayerConformance

        return LayerConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
