"""Messages to people, in Portuguese and English, from one JSON catalogue per package.

`<package>/messages/en.json` and `pt_BR.json` map the same keys to texts with `{named}` fields. A package says

    from luna_kernel.base.messages import catalogue
    t = catalogue(__package__)
    raise UsageError(t("index.no_files", folder=folder), hint=t("index.no_files.hint"))

The language is `LUNA_LANG`, else the first of LANGUAGE, LC_ALL, LC_MESSAGES, LANG that names one, else Portuguese.
Code, logs, JSON keys and exit statuses are never translated.

`{files:arquivo|arquivos}` is a count with its noun: `1 arquivo`, `0 arquivos`, `2 arquivos`.
"""

from __future__ import annotations

import functools
import json
import os
import pkgutil
import string
from collections.abc import Callable
from typing import Any

LANGUAGES = ("pt_BR", "en")


def language() -> str:
    """The language of messages: `pt_BR` or `en`. Read from the environment at each call, so a test may change it."""
    for variable in ("LUNA_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(variable, "").lower()
        if value.startswith("pt"):
            return "pt_BR"
        if value.startswith("en"):
            return "en"
    return "pt_BR"


@functools.cache
def load_texts(package: str, lang: str) -> dict[str, str]:
    """The texts of one package in one language, key to template."""
    data = pkgutil.get_data(package, f"messages/{lang}.json")  # importlib.resources would cost every start 5 ms
    assert data is not None
    texts: dict[str, str] = json.loads(data)
    return texts


class _Counting(string.Formatter):
    """`str.format` that knows singular and plural."""

    def format_field(self, value: Any, format_spec: str) -> str:
        one, bar, many = format_spec.partition("|")
        return f"{value} {one if str(value) == '1' else many}" if bar else super().format_field(value, format_spec)


def catalogue(package: str) -> Callable[..., str]:
    """A function `t(key, **fields) -> text` over the catalogue of `package`.

    Raises:
        KeyError: the key is in no catalogue of the package; a programmer's mistake.
    """

    def translate(key: str, /, **fields: object) -> str:
        return _Counting().vformat(load_texts(package, language())[key], (), fields)

    return translate


def number_text(value: float, decimals: int = 0) -> str:
    """A number as people write it: `9 116`, `0.83`, in Portuguese `0,83`. Thousands are a narrow space apart, since a
    comma or a point there is a decimal sign in one of the two languages."""
    text = f"{value:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return text.replace(".", ",") if language() == "pt_BR" else text
