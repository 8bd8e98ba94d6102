"""What encoding a text file is in, decided by rules that are right for Portuguese.

Statistical detectors take a third of short Latin-1 texts for something else. Byte order marks and UTF-8 prove
themselves; what is left in Brazilian files is UTF-16 without a mark, and Windows' cp1252.
"""

from __future__ import annotations

import codecs
import contextlib
import re

_MARKS = (  # UTF-32 before UTF-16: the little-endian mark of one begins with that of the other
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD = 8192
# Control characters that text files have: tab, line feed, vertical tab, form feed, carriage return, ^Z (DOS end), ESC.
_TEXT_CONTROLS = frozenset(b"\t\n\v\f\r\x1a\x1b")


def decode(data: bytes) -> tuple[str, str]:
    """The text of a file and the encoding it was in: mark, strict UTF-8, UTF-16 by its NULs, cp1252, Latin-1.

    Newlines stay as they are; a mark is not part of the text. Never fails: Latin-1 takes every byte. Whether the
    bytes are text at all is for `looks_binary`.

    Returns:
        (text, encoding): encoding is one of utf-8, utf-16-le, utf-16-be, utf-32-le, utf-32-be, cp1252, latin-1.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):  # the mark may lie: cp1252 text can begin with its bytes
                return data[len(mark) :].decode(encoding), encoding
    for candidate in (_utf16_order(data) or "utf-8", "utf-8", "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(candidate), candidate
    return data.decode("latin-1"), "latin-1"


def looks_binary(data: bytes) -> bool:
    """Whether the bytes are no text in any encoding that `decode` knows: an image, an archive, a program."""
    head = data[:_HEAD]
    if not head or _utf16_order(data) is not None:
        return False
    if any(data.startswith(mark) and mark != codecs.BOM_UTF8 for mark, _ in _MARKS):
        text, encoding = decode(data)
        return encoding in ("cp1252", "latin-1") or "\0" in text[:_HEAD]
    if b"\0" in head:
        return True
    controls = sum(byte < 32 and byte not in _TEXT_CONTROLS for byte in head)
    return controls > len(head) // 50


def _utf16_order(data: bytes) -> str | None:
    """`utf-16-le` or `utf-16-be` if the NULs say so, else None.

    In western text nearly every second byte of UTF-16 is NUL, always on the same side, and UTF-8 text has none.
    """
    head = data[: min(len(data) & ~1, _HEAD)]
    if len(data) % 2 or not head:
        return None
    even, odd, units = head[::2].count(0), head[1::2].count(0), len(head) // 2
    for side, other, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if side * 2 > units and other * 20 <= units:
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                return None
            return None if "\0" in text else encoding
    return None


# What UTF-8 looks like when it was read as cp1252 or Latin-1. After `Ã`, right text has quotes and dashes (`AMANHÃ”`);
# those alone prove nothing.
_PROOF = re.compile(r"[ÃÂ][\x80-\x9f¡-ª¬-º¼-¿€‚ƒ„†‡ˆ‰Š‹ŒŽ™š›œžŸ]|â[\x80€][\x80-\xbf“”˜™šœžŸ¢¦]")
_TIMES = 3


def mend(text: str) -> str:
    """`text` with UTF-8 that was read as cp1252 or Latin-1 put right (`nÃ£o` becomes `não`), also where that happened
    twice.

    The whole text, else each line for itself, is read again, and only if all of it is valid UTF-8 then and a sequence
    in it proves the fault; so right Portuguese stays as it is.
    """
    for _ in range(_TIMES):
        if _PROOF.search(text) is None:
            break
        whole = _read_again(text)
        if whole is None:
            lines = text.split("\n")
            whole = "\n".join((_PROOF.search(line) and _read_again(line)) or line for line in lines)
        if whole == text:
            break
        text = whole
    return text


def _read_again(text: str) -> str | None:
    """The text whose UTF-8 bytes were taken for cp1252 or Latin-1, or None."""
    data = bytearray()
    for character in text:
        code = ord(character)
        if code < 0x80:
            data.append(code)
            continue
        try:
            data += character.encode("cp1252")
        except UnicodeEncodeError:
            if code > 0xFF:
                return None
            data.append(code)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
