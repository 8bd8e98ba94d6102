"""For authors of plugins: the conformance suites that layers, blocks of layers, generators and knowledge stores pass.

from luna_kernel.testing import LayerConformance

class TestMoC(LayerConformance):
    component = ("ffn", "moc")
    config = {"num_experts": 4, "top_k": 2}
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks import BlockConformance
    from .generators import GeneratorConformance
    from .knowledge import KnowledgeStoreConformance
    from .layers import LayerConformance

__all__ = ["BlockConformance", "GeneratorConformance", "KnowledgeStoreConformance", "LayerConformance"]


def __getattr__(name: str) -> Any:
    """Import a suite, and with it pytest or torch, on first use only."""
    if name == "LayerConformance":
        from .layers import LayerConformance

        return LayerConformance
    if name == "BlockConformance":
        from .blocks import BlockConformance

        return BlockConformance
    if name == "GeneratorConformance":
        from .generators import GeneratorConformance

        return GeneratorConformance
    if name == "KnowledgeStoreConformance":
        from .knowledge import KnowledgeStoreConformance

        return KnowledgeStoreConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
