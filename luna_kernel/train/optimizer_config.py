"""Configurations of the kernel's optimisers."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AdamWConfig(BaseModel):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta1: float = Field(0.9, ge=0, lt=1)
    """Memory of the mean of gradients."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Memory of the mean of their squares."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(0.1, ge=0)
    """Of matrices; vectors (norms, biases) do not decay."""


class MuonConfig(AdamWConfig):
    """Muon (Jordan et al. 2024) for the matrices inside the blocks; the rest, embedding and head too, goes by AdamW."""

    momentum: float = Field(0.95, ge=0, lt=1)
    """Memory of the gradient, Nesterov's way."""
    iterations: int = Field(5, ge=1, le=20)
    """Newton–Schulz steps that make the update orthogonal."""
    rms: float = Field(0.2, gt=0)
    """Size of the update, as root mean square, at learning rate 1: AdamW's usual one, so that both share a rate (Liu
    et al. 2025, arXiv 2502.16982, section 2.2)."""
