"""click's texts in Portuguese: source and compiled file agree, fields survive, and nothing of click is left over."""

from __future__ import annotations

import ast
import gettext
import importlib.util
import re
from pathlib import Path

import click
import pytest

from luna_kernel.cli.language import LOCALE_FOLDER

ROOT = Path(__file__).parents[2]
PO = LOCALE_FOLDER / "pt_BR" / "LC_MESSAGES" / "luna.po"

spec = importlib.util.spec_from_file_location("compile_messages", ROOT / "contrib" / "compile_messages.py")
assert spec is not None
assert spec.loader is not None
compiler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compiler)


def test_source_and_compiled_file_agree() -> None:
    entries = compiler.parse(PO.read_text(encoding="utf-8"))
    assert compiler.compile_mo(entries) == PO.with_suffix(".mo").read_bytes()
    with PO.with_suffix(".mo").open("rb") as file:
        read = gettext.GNUTranslations(file)
    for source, target in entries.items():
        if source and "\0" not in source:
            assert read.gettext(source) == target
    assert read.ngettext("Option {name!r} requires an argument.", "", 1).startswith("A opção {name!r} exige um")
    assert read.ngettext("Option {name!r} requires an argument.", "", 2).startswith("A opção {name!r} exige {nargs}")


def test_fields_survive() -> None:
    """No field is in a translation that is not in its source: click would raise a KeyError."""
    for source, target in compiler.parse(PO.read_text(encoding="utf-8")).items():
        if source:
            known = set(re.findall(r"\{[^}]*\}|%\([^)]*\)s", source))
            assert set(re.findall(r"\{[^}]*\}|%\([^)]*\)s", target)) <= known, source


RARE = {
    "d", "Windows error: {error}", "Could not determine name for option with declarations {decls!r}",
    ("No options defined but a name was passed ({name}). Did you mean to declare an argument instead? "
     "Did you mean to pass '--{name}'?"), "Arguments take exactly one parameter declaration, got {length}: {decls}.",
    "Name '{name}' defined twice", "Boolean option {decl!r} cannot use the same flag for true/false.",
    "Invalid start character for option ({option})", "Unknown color {colour!r}", "Unknown standard stream '{name}'",
}  # fmt: skip
"""What only a programmer sees."""


def test_every_text_of_click_is_translated() -> None:
    known = {source.split("\0")[0] for source in compiler.parse(PO.read_text(encoding="utf-8"))} | RARE
    texts = set()
    for file in Path(click.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "ngettext"):
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    texts.add(first.value)
    if not texts & known:
        pytest.fail("click marks its texts in another way now")
    assert texts - known == set()
