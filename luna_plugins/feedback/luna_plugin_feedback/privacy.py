"""Personal data in texts, found by form and check digits, and masked.

E-mail addresses; CPF and CNPJ (check digits by modulus 11, CNPJ also with letters, as it is given out since July 2026);
payment cards (Luhn, ISO/IEC 7812-1); Brazilian telephone numbers with or without area code, and international ones.
Names and addresses are not found: no form tells them from other words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .entry import Entry

_EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,24}\b")
_CPF = re.compile(r"(?<![\w.,-])\d{3}\.?\d{3}\.?\d{3}[-./ ]?\d{2}(?![\w]|[.,-]\d)")
_CNPJ = re.compile(r"(?<![\w.,-])[0-9A-Z]{2}\.?[0-9A-Z]{3}\.?[0-9A-Z]{3}/?[0-9A-Z]{4}-?\d{2}(?![\w]|[.,-]\d)")
_CARD = re.compile(r"(?<![\w.,-])[2-6]\d{3}(?:[ -]?\d){8,15}(?![\w]|[.,-]\d)")
_AREA = r"(?:1[1-9]|2[12478]|3[1-578]|4[1-9]|5[1345]|6[1-9]|7[134579]|8[1-9]|9[1-9])"
_PHONE = re.compile(
    rf"(?<![\w.,/-])(?:(?:\+?55[ .-]?)?(?:\(0?{_AREA}\) ?|0?{_AREA}[ .-]?)(?:9[ .-]?\d{{4}}|[2-5]\d{{3}})[ .-]?\d{{4}}"
    r"|9\d{4}[ .-]\d{4}|[2-5]\d{3}-\d{4}|0[38]00[ .-]?\d{3}[ .-]?\d{4}|\+(?!55)\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5})"
    r"(?![\w/]|[.,-]\d)"
)
_YEARS = re.compile(r"(?:1[5-9]|20)\d\d-(?:1[5-9]|20)\d\d")


def is_cpf(text: str) -> bool:
    """Whether the digits in `text` are a CPF: eleven, not all equal, both check digits right."""
    digits = [int(char) for char in text if char.isdecimal()]
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for size in (9, 10):
        rest = sum(digit * weight for digit, weight in zip(digits, range(size + 1, 1, -1), strict=False)) * 10 % 11 % 10
        if rest != digits[size]:
            return False
    return True


def is_cnpj(text: str) -> bool:
    """Whether the letters and digits in `text` are a CNPJ: fourteen, both check digits right; a letter counts as its
    ASCII code less 48."""
    values = [ord(char) - 48 for char in text if char.isascii() and char.isalnum()]
    if len(values) != 14 or len(set(values)) == 1:
        return False
    for size in (12, 13):
        weights = [(size - 1 - index) % 8 + 2 for index in range(size)]
        rest = sum(value * weight for value, weight in zip(values, weights, strict=False)) % 11
        if values[size] != (0 if rest < 2 else 11 - rest):
            return False
    return True


def is_card(text: str) -> bool:
    """Whether the digits in `text` pass Luhn's test and are 13 to 19."""
    digits = [int(char) for char in text if char.isdecimal()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_phone(text: str) -> bool:
    return not _YEARS.fullmatch(text) and 8 <= sum(char.isdecimal() for char in text) <= 15


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("E-MAIL", _EMAIL, lambda _: True),
    ("CNPJ", _CNPJ, is_cnpj),
    ("CPF", _CPF, is_cpf),
    ("CARTÃO", _CARD, is_card),
    ("TELEFONE", _PHONE, _is_phone),
)


def redact(text: str) -> tuple[str, Counter[str]]:
    """`text` with `[E-MAIL]`, `[CNPJ]`, `[CPF]`, `[CARTÃO]`, `[TELEFONE]` in place of each, and how many of which."""
    counted: Counter[str] = Counter()
    for name, pattern, is_one in _KINDS:

        def mask(match: re.Match[str], name: str = name, is_one: Callable[[str], bool] = is_one) -> str:
            if not is_one(match[0]):
                return match[0]
            counted[name] += 1
            return f"[{name}]"

        text = pattern.sub(mask, text)
    return text, counted


def redact_entry(entry: Entry) -> tuple[Entry, Counter[str]]:
    """The entry with all its texts masked: prompt, answer, comment, correction, sources."""
    counted: Counter[str] = Counter()

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            text, found = redact(value)
            counted.update(found)
            return text
        if isinstance(value, dict):
            return {key: masked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(masked(item) for item in value)
        return value

    changes = {name: masked(getattr(entry, name)) for name in ("prompt", "answer", "text", "correction", "sources")}
    return replace(entry, **changes), counted
