"""Which weights vectors were made with: their hash lies beside the index, so that others are noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from luna_kernel.base import durable, integrity
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import OtherEncoderError

t = catalogue(__package__)

FILE = "source.json"


def fingerprint(files: Iterable[Path]) -> str:
    """A hash of the contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {integrity.hash_file(path)}\n".encode())
    return digest.hexdigest()


def write_source(folder: Path, place: str, hashed: str) -> None:
    """Note beside an index which weights it was made with."""
    durable.write_json(folder / FILE, {"from": place, "sha256": hashed})


def check_source(folder: Path, place: str, hashed: str) -> None:
    """Compare the weights at `place` with those that an index was made with.

    Raises:
        OtherEncoderError: they are others, or nothing was noted.
    """
    noted = integrity.read_json(folder / FILE)
    if not isinstance(noted, dict) or noted.get("sha256") != hashed:
        before = noted.get("from") if isinstance(noted, dict) else "-"
        was = str(noted.get("sha256"))[:12] if isinstance(noted, dict) else "-"
        raise OtherEncoderError(t("source.changed", before=before, was=was, now=place, found=hashed[:12]))
