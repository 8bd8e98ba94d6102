"""How a GGUF file is opened and asked."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class LlamaCppConfig(BaseModel):
    """The table `[plugin.llamacpp]` of the settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context_length: int | None = Field(default=None, ge=64)
    """Tokens that prompt and answer may have together; None: the file's own, at most 8192, to spare memory."""
    grounds_itself: bool = True
    """Whether the model answers from passages in its prompt; else the passages are quoted."""
    gpu_layers: int = Field(default=-1, ge=-1)
    """Layers on the GPU where one is used; -1 for all."""
    threads: int | None = Field(default=None, ge=1)
    """Processor threads; None: as many as Luna may use."""
    batch: int = Field(default=256, ge=8, le=4096)
    """Tokens of the prompt that are read at a time; between two reads an answer can be stopped."""
    penalty_window: int = Field(default=256, ge=0)
    """Latest tokens of the answer that the repetition penalty looks at."""
    think_tokens: int = Field(default=1024, ge=0)
    """Tokens that a thinking part may take beside the answer's."""
    template: dict[str, Any] = Field(default_factory=dict)
    """Further variables of the model's chat template."""
