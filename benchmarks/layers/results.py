"""A benchmark's figures as a file: the options, the machine and what was found."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luna_kernel.base.durable import write_json
from luna_kernel.base.machine import cpu

DIGITS = 5
"""Significant digits of a number in a file."""


def add_output(parser: argparse.ArgumentParser) -> None:
    """The option `--output FILE`."""
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there too, as JSON")


def write_results(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Write `figures`, the options that are no paths, the machine and PyTorch's version to `--output`, if given."""
    if options.output is None:
        return
    import torch  # others take the rest of this file without it

    asked = {name: value for name, value in vars(options).items() if not has_path(value)}
    about = {"options": asked, "machine": cpu(), "torch": torch.__version__}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, short({**about, **figures}))
    print(f"\nwritten: {options.output}")


def has_path(value: object) -> bool:
    """Whether an option names files of this machine, so that it says nothing elsewhere."""
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, Path) or (isinstance(part, str) and "/" in part) for part in parts)


def short(value: Any) -> Any:
    """The same with numbers of `DIGITS` digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: short(each) for key, each in value.items()}
    return [short(each) for each in value] if isinstance(value, list | tuple) else value
