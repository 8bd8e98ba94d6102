"""A command's figures as JSON: on stdout with `--json`, in a file with `--output FILE`."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from luna_kernel.base.durable import write_json
from luna_kernel.base.machine import cpu

DIGITS = 5
"""Significant digits of a number in a file."""
LIBRARIES = ("bm25s", "faiss-cpu", "numba", "numpy", "rank-bm25", "scikit-learn", "tokenizers")
"""Libraries whose versions may explain a figure."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options `--json` and `--output FILE`."""
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and no table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there too, as JSON")


def tell(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Print and write `figures` as the options ask, with the options that are no paths, the machine and versions."""
    asked = {name: value for name, value in vars(options).items() if not _is_path(value) and name != "json"}
    told = _short({"options": asked, "machine": cpu(), "versions": _versions(), **figures})
    if options.json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.output, told)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _is_path(value: object) -> bool:
    """Whether an option names files of this machine, so that it says nothing elsewhere, or nothing at all."""
    parts = value if isinstance(value, list) else [value]
    return any(part is None or isinstance(part, Path) or (isinstance(part, str) and "/" in part) for part in parts)


def _short(value: Any) -> Any:
    """The same with numbers of `DIGITS` digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value
