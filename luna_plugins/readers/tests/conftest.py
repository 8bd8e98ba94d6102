"""Real files, made by the libraries that people's programs use, read through the kernel's worker."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from luna_kernel.contracts.data import ReadResult
from luna_kernel.data.reading import read_path
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.registry import Registry

Read = Callable[..., ReadResult]


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("LUNA_LANG", "en")


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_plugins("readers").registry


@pytest.fixture
def read(registry: Registry, tmp_path: Path) -> Read:
    """`read("a.html", b"…")`: what reading that file in the worker gives; faults are in `bad`."""

    def reading(name: str, data: bytes | str) -> ReadResult:
        path = tmp_path / name
        path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        return read_path(path, registry, skip_bad=True, root=tmp_path)

    return reading


def zipped(files: Mapping[str, bytes | str], *, stored: str = "") -> bytes:
    """A zip archive of `files`; the entry named `stored` comes first and uncompressed, as in EPUB and ODT."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files, key=lambda name: name != stored):
            archive.writestr(name, files[name], zipfile.ZIP_STORED if name == stored else zipfile.ZIP_DEFLATED)
    return out.getvalue()


def pdf_of(pages: list[list[str]], *, title: str = "", password: str = "") -> bytes:
    """A PDF with these lines on its pages."""
    import fpdf

    pdf = fpdf.FPDF()
    pdf.set_title(title)
    if password:
        pdf.set_encryption(owner_password=password, user_password=password)
    for lines in pages:
        pdf.add_page()
        pdf.set_font("Helvetica", size=12)
        for line in lines:
            pdf.cell(text=line, new_x="LMARGIN", new_y="NEXT")
    return bytes(pdf.output())
