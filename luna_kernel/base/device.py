"""Where to compute. What was asked for is used or refused with the reason, never replaced in silence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

DEVICES = ("auto", "cpu", "cuda", "mps")
_NUMBERED = re.compile(r"cuda:(\d{1,3})")


@dataclass(frozen=True)
class DeviceChoice:
    """A device and, in the user's language, why it is this one."""

    name: str
    """`cpu`, `cuda`, `cuda:1` or `mps`, as torch calls it."""
    reason: str


def choose_device(wanted: str = "auto") -> DeviceChoice:
    """The device for `wanted`: one of `DEVICES`, or `cuda:N`. `auto` takes a GPU that works, else the CPU.

    Raises:
        UsageError: there is no such device, or it was named and is not usable here; says why.
    """
    number = _NUMBERED.fullmatch(wanted)
    if wanted not in DEVICES and number is None:
        raise UsageError(t("device.unknown", device=wanted[:40]), hint=t("device.unusable.hint"))
    if wanted == "cpu":
        return DeviceChoice("cpu", t("device.asked"))
    faults = {name: fault for name, fault in (("cuda", _cuda_fault()), ("mps", _mps_fault())) if fault}
    if wanted == "auto":
        for name in ("cuda", "mps"):
            if name not in faults:
                return DeviceChoice(name, t("device.auto_found", device=_describe(name)))
        return DeviceChoice("cpu", t("device.auto_cpu", reason=faults["cuda"]))
    fault = faults.get("cuda" if number else wanted) or (_number_fault(int(number[1])) if number else None)
    if fault:
        raise UsageError(t("device.unusable", device=wanted, reason=fault), hint=t("device.unusable.hint"))
    return DeviceChoice(wanted, t("device.asked"))


def _cuda_fault() -> str | None:
    """Why CUDA cannot be used, or None."""
    import torch

    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return t("device.cuda_not_built", version=torch.__version__)
    return None if torch.cuda.is_available() else t("device.cuda_no_gpu")


def _number_fault(index: int) -> str | None:
    """Why the CUDA device of that number cannot be used, or None."""
    import torch

    count = torch.cuda.device_count()
    return None if index < count else t("device.cuda_count", count=count)


def _mps_fault() -> str | None:
    """Why Apple's GPU cannot be used, or None."""
    import torch

    if not torch.backends.mps.is_built():
        return t("device.mps_not_built", version=torch.__version__)
    return None if torch.backends.mps.is_available() else t("device.mps_no_gpu")


def _describe(name: str) -> str:
    import torch

    return torch.cuda.get_device_name() if name == "cuda" else "Apple GPU"
