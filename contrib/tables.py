"""Write the tables of figures on the pages anew from `benchmarks/results`: `python contrib/tables.py [--check]`.

A page marks the place with `<!-- table: NAME -->` and `<!-- end of table -->`; `tables.toml` says what the table shows.
With `--check` nothing is written, and what a page should say otherwise is an error.

A table of `tables.toml`:

    file = "moe.json"                          # in benchmarks/results
    head = ["layer"]                           # of the columns of labels
    rows = [{label = ["`moe`"], row = "moe"}]  # fields other than `label` are put into the paths
    [[NAME.columns]]
    head = "D 256"
    at = "tables/~d 256,&against dense/rows/{row}"   # `file` may differ by column too
    as = "spread"

A path goes down by the keys of objects and the numbers of lists; in a list `*` takes all, `~words&words` those whose
title holds all of these, `key=value` those that have it. `as` is a format for one number; for several it shows the
median with the lowest and the highest, with `median = true` the median alone. `spread` is for what `side_by_side.py`
writes: ratio, lowest, highest. `per` is a path to what the numbers are divided by, one by one. A column that is
`optional` is empty where the path leads to nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


class TableError(Exception):
    """A description, a page or a file of figures that does not fit the others."""


def pages() -> list[Path]:
    """The pages that may have tables."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("luna_plugins/*/README.md")])


def descriptions() -> dict[str, dict[str, Any]]:
    """The tables by name."""
    return tomllib.loads(Path(__file__).with_name("tables.toml").read_text(encoding="utf-8"))


@functools.cache
def figures(name: str) -> Any:
    """A file of `benchmarks/results`."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def look_up(value: Any, path: str) -> list[Any]:
    """What the path leads to; empty where it leads to nothing."""
    found = [value]
    for step in path.split("/"):
        found = [below for each in found for below in _below(each, step)]
    return found


def _below(value: Any, step: str) -> Iterable[Any]:
    if isinstance(value, dict):
        return [value[step]] if step in value else []
    if not isinstance(value, list):
        return []
    if step == "*":
        return value
    if step.startswith("~"):
        return [each for each in value if all(words in each["title"] for words in step[1:].split("&"))]
    key, equals, wanted = step.partition("=")
    if equals:
        return [each for each in value if str(each.get(key)) == wanted]
    place = int(step)
    return [value[place]] if -len(value) <= place < len(value) else []


def cell(column: dict[str, Any], row: dict[str, Any], file: str) -> str:
    """The text of one cell.

    Raises:
        TableError: the path leads to nothing, and the column is not optional.
    """
    path, source = column["at"].format(**row), figures(column.get("file", file))
    found = look_up(source, path)
    if not found:
        if column.get("optional"):
            return ""
        raise TableError(f"{column.get('file', file)}: nothing at {path!r}")
    if column["as"] == "spread":
        (only,) = found
        if only["lowest"] == only["highest"] == 1:
            return "1"
        return _with_range("{:.2f}", only["ratio"], only["lowest"], only["highest"])
    if "per" in column:
        per = look_up(source, column["per"].format(**row))
        found = [a / b for a, b in zip(found, per, strict=True)]
    if column.get("median"):
        found = [statistics.median(found)]
    return _with_range(column["as"], statistics.median(found) if len(found) > 1 else found[0], min(found), max(found))


def _with_range(shape: str, middle: float, low: float, high: float) -> str:
    texts = [shape.format(value) if value else shape.format(0).replace("0.0e+00", "0") for value in (middle, low, high)]
    text = texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"
    return re.sub(r"e([+-])0(\d)", r"e\1\2", re.sub(r"(\d)%", r"\1 %", text))


def render(table: dict[str, Any]) -> str:
    """The lines of a table."""
    heads = [*table["head"], *(column["head"] for column in table["columns"])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table["rows"]:
        cells = [*row["label"], *(cell(column, row, table["file"]) for column in table["columns"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def renew(text: str, tables: dict[str, dict[str, Any]], used: set[str]) -> str:
    """A page's text with its tables as they should be; their names are added to `used`.

    Raises:
        TableError: a mark without a description, or see `cell`.
    """

    def put(match: re.Match[str]) -> str:
        name = match[2]
        if name not in tables:
            raise TableError(f"no table {name!r} in tables.toml")
        used.add(name)
        return match[1] + render(tables[name]) + match[3]

    return MARK.sub(put, text)


def main(arguments: list[str] | None = None) -> int:
    """Write or check all pages; 1 if a check found one that differs, 2 if something does not fit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say which pages differ")
    check = parser.parse_args(arguments).check
    tables, used, wrong, unfit = descriptions(), set[str](), 0, False
    for page in pages():
        before = page.read_text(encoding="utf-8")
        try:
            after = renew(before, tables, used)
        except TableError as error:
            print(f"{page.relative_to(ROOT)}: {error}", file=sys.stderr)
            unfit = True
            continue
        if after != before:
            wrong += 1
            print(f"{'differs' if check else 'written'}: {page.relative_to(ROOT)}")
            if not check:
                page.write_text(after, encoding="utf-8")
    for name in sorted(tables.keys() - used) if not unfit else ():
        wrong += 1
        print(f"tables.toml: {name!r} is on no page", file=sys.stderr)
    return 2 if unfit else 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
