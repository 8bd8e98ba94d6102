"""What one can set about the explanations."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class EducationalConfig(BaseModel):
    """Settings of the step `educational`; `--educational`, `--show-tensors` and `/educational` go before them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = False
    """Whether a conversation begins with explanations on."""
    show_tensors: bool = False
    """Whether an explanation shows the tensors of every layer."""
