"""The encoder of a dense retriever: chosen by its node, fitted, asked, saved beside the vectors and opened again.

A retriever holds a `ChosenEncoder` and leaves all of this to it, so that every retriever refuses the same things in the
same words:

    class Config(BaseModel):
        encoder: EncoderNode = Field(default_factory=lambda: {"name": "lsa"})

    self._encoder = ChosenEncoder(config.encoder, registry, where="retriever.mine.encoder")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue
from luna_kernel.plugins.registry import as_node

from .retrievers import Encoder, OtherEncoderError

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

EncoderNode = Annotated[dict[str, Any], BeforeValidator(as_node)]
"""The field of a configuration that names the encoder: a node, or a name alone."""

_BATCH = 512
"""Texts that an encoder is given at once."""


class ChosenEncoder:
    """An encoder component and what it was fitted on.

    Args:
        node: see `EncoderNode`.
        registry: where encoders are.
        where: the node's place, for errors.

    Raises:
        UsageError: the encoder is unknown, or its settings do not validate.
    """

    def __init__(self, node: Mapping[str, Any], registry: Registry | None, *, where: str) -> None:
        if registry is None:
            raise ValueError(f"{where}: a registry is needed to find the encoder in")
        self._component = registry.get("encoder", str(node["name"]), where=where)
        self._config = self._component.make_config(node, where=where)
        self.encoder: Encoder = self._component.load()(self._config)
        self.fitted_on = 0
        """How many texts it was fitted on; 0: not yet."""
        self.new_since_fit = 0
        """How many came after those."""

    @property
    def dimension(self) -> int:
        """Length of the vectors; 0 where the encoder is still to be fitted."""
        return int(self.encoder.dimension)

    def fit(self, texts: Sequence[str]) -> None:
        """Fit it on the first texts."""
        self.encoder.fit(texts)
        self.fitted_on, self.new_since_fit = len(texts), 0

    def outgrown(self, growth: float) -> bool:
        """Whether more than this share of what it was fitted on has come since."""
        return self.new_since_fit > growth * max(self.fitted_on, 1)

    def vectors(self, texts: Sequence[str], *, query: bool = False) -> Any:
        """float32 array (N, dimension), contiguous.

        Raises:
            ValueError: the encoder gave something that is not finite.
        """
        import numpy as np

        parts = [
            np.asarray(self.encoder.encode(texts[begin : begin + _BATCH], query=query), np.float32)
            for begin in range(0, len(texts), _BATCH)
        ]
        found = np.concatenate(parts) if parts else np.zeros((0, self.dimension), np.float32)
        if not np.isfinite(found).all():
            raise ValueError(f"encoder {self._component.name} gave vectors that are not finite")
        return np.ascontiguousarray(found)

    def state(self) -> dict[str, Any]:
        """What a retriever keeps beside its vectors, for `open`."""
        return {
            "encoder": self._component.name,
            "encoder_version": self._component.version,
            "dimension": self.dimension,
            "fitted_on": self.fitted_on,
            "new_since_fit": self.new_since_fit,
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Compare with the encoder that vectors were made with.

        Args:
            state: what `state` gave then.

        Raises:
            OtherEncoderError: its name or version is another; says both.
        """
        mine = (self._component.name, self._component.version)
        found = (state.get("encoder"), state.get("encoder_version"))
        if found != mine:
            said = [f"{name} ({version})" for name, version in (found, mine)]
            raise OtherEncoderError(t("encoder.other", found=said[0], expected=said[1]))

    def open(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Go on with what `Encoder.save` wrote into `folder`.

        Raises:
            OtherEncoderError: the vectors were made with another encoder, or with other weights.
            IntegrityError: the files are not what was saved.
        """
        self.check(state)
        self.encoder = self._component.load().load(self._config, folder)
        if self.dimension != state.get("dimension"):
            raise IntegrityError(t("encoder.dimension", found=self.dimension, expected=state.get("dimension")))
        self.fitted_on, self.new_since_fit = int(state["fitted_on"]), int(state["new_since_fit"])
