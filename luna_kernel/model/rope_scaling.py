"""Wavelengths of the rotary embedding for a longer context than the trained one.

    none     f_i = θ^(-2i/d), radians per token of pair i of d/2
    linear   f_i / s                                                   (Chen et al. 2023, arXiv 2306.15595)
    ntk      f_i with θ · s^(d/(d-2)) for θ: the fastest pair stays, the slowest is divided by s
    yarn     each pair between f_i and f_i / s by the turns it makes in the trained context; cos and sin times
             0.1 ln s + 1                                              (Peng et al. 2023, arXiv 2309.00071)
    llama3   long wavelengths f_i / s, short ones f_i, a smooth passage

s is the factor, d the size of a head. The "dynamic" form of `ntk` is left out: its angles depend on how long the text
has become, so that what was cached is no longer what a fresh pass gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rope_config import RotaryConfig


def frequencies(config: RotaryConfig, head_dim: int, device: torch.device) -> Tensor:
    """Radians per token of each pair, (Dh/2,), float32."""
    theta = config.theta
    if config.scaling == "ntk":
        theta *= config.factor ** (head_dim / (head_dim - 2))
    exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    frequency = 1.0 / theta**exponent
    if config.scaling == "linear":
        return frequency / config.factor
    if config.scaling == "llama3":
        wavelength = 2 * math.pi / frequency
        low, high = config.low_freq_factor, config.high_freq_factor
        keep = ((config.original_max_positions / wavelength - low) / (high - low)).clamp(0, 1)
        return frequency * (keep + (1 - keep) / config.factor)
    if config.scaling == "yarn":
        keep = 1 - yarn_ramp(config, head_dim, device)
        return frequency * keep + frequency / config.factor * (1 - keep)
    return frequency


def yarn_ramp(config: RotaryConfig, head_dim: int, device: torch.device) -> Tensor:
    """How far each pair (Dh/2,) is stretched, 0 to 1: 0 where it turns `beta_fast` times or more in the trained
    context, 1 where it turns `beta_slow` times or less, linear in the pair's number between them (section 3.2)."""

    def pair_of(turns: float) -> float:
        return head_dim * math.log(config.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low = max(math.floor(pair_of(config.beta_fast)), 0)
    high = min(math.ceil(pair_of(config.beta_slow)), head_dim - 1)
    pairs = torch.arange(head_dim // 2, device=device, dtype=torch.float32)
    return ((pairs - low) / (high - low if high != low else 0.001)).clamp(0, 1)


def magnitude(config: RotaryConfig) -> float:
    """What cos and sin are multiplied by, 1 except for `yarn`: the scores are multiplied by its square."""
    if config.scaling != "yarn":
        return 1.0
    if config.attention_factor is not None:
        return config.attention_factor
    return 0.1 * math.log(config.factor) + 1.0
