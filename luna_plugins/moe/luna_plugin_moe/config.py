"""Configuration of the routers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class TopKConfig(BaseModel):
    """The linear router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become scores. `softmax`: experts compete. `sigmoid`: each is judged on its own, and the chosen ones'
    scores are made to sum to 1."""
