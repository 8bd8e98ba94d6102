"""Compile the command line's gettext catalogue: `python contrib/compile_messages.py` writes luna.mo beside luna.po.

It reads the part of the PO format that the catalogue uses: msgid, msgid_plural, msgstr, msgstr[n], comments.
`--check` compares and writes nothing; its exit status is 1 when the compiled file is old.
"""

from __future__ import annotations

import ast
import struct
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "luna_kernel" / "cli" / "locale"


def parse(text: str) -> dict[str, str]:
    """Message ids to translations, in gettext's own form: plurals joined by NUL."""
    entries: dict[str, str] = {}
    parts: dict[str, str] = {}
    field = ""

    def close() -> None:
        if "msgid" in parts:
            source = parts["msgid"] + ("\0" + parts["msgid_plural"] if "msgid_plural" in parts else "")
            forms = [parts[name] for name in sorted(parts) if name.startswith("msgstr")]
            if source in entries:
                raise ValueError(f"twice: {source!r}")
            entries[source] = "\0".join(forms)
        parts.clear()

    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if not line.startswith('"'):
            field, _, line = line.partition(" ")
            if field == "msgid":
                close()
            parts[field] = ""
        value = ast.literal_eval(line)
        if not isinstance(value, str):
            raise TypeError(f"line {number}: {raw}")
        parts[field] += value
    close()
    return entries


def compile_mo(entries: dict[str, str]) -> bytes:
    """The binary file: header, two tables of (length, offset), then the texts, ids sorted."""
    pairs = sorted((key.encode(), value.encode()) for key, value in entries.items())
    count = len(pairs)
    head = 28
    offset = head + 16 * count
    tables, body = [], b""
    for column in (0, 1):
        for pair in pairs:
            tables.append(struct.pack("<II", len(pair[column]), offset + len(body)))
            body += pair[column] + b"\0"
    return (
        struct.pack("<7I", 0x950412DE, 0, count, head, head + 8 * count, 0, head + 16 * count) + b"".join(tables) + body
    )


def main() -> int:
    """Compile every catalogue, or compare with `--check`."""
    old = []
    for po in sorted(FOLDER.glob("*/LC_MESSAGES/*.po")):
        data = compile_mo(parse(po.read_text(encoding="utf-8")))
        mo = po.with_suffix(".mo")
        if not mo.is_file() or mo.read_bytes() != data:
            old.append(mo.name)
            if "--check" not in sys.argv:
                mo.write_bytes(data)
    print("compiled:" if "--check" not in sys.argv else "old:", ", ".join(old) or "nothing")
    return 1 if old and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
