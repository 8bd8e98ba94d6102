"""Configuration of the layer. No torch here: configurations are read and printed where nothing is computed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class XyzConfig(BaseModel):
    """What can be set in a node `{name: xyz, …}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    expansion: float = Field(default=4.0, gt=0)
    """Width of the hidden layer, as a multiple of d_model."""
