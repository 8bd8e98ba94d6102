"""A command's figures as JSON: on stdout with `--json`, in a file with `--output FILE`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from luna_kernel.base.durable import write_json
from luna_kernel.base.machine import cpu

sys.path.append(str(Path(__file__).parents[1] / "layers"))
from results import has_path, short

LIBRARIES = ("bm25s", "faiss-cpu", "numba", "numpy", "rank-bm25", "scikit-learn", "tokenizers")
"""Libraries whose versions may explain a figure."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options `--json` and `--output FILE`."""
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and no table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there too, as JSON")


def tell(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Print and write `figures` as the options ask, with the options that are no paths, the machine and versions."""
    asked = {
        name: value
        for name, value in vars(options).items()
        if value is not None and not has_path(value) and name != "json"
    }
    told = short({"options": asked, "machine": cpu(), "versions": _versions(), **figures})
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
