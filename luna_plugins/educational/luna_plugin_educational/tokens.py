"""Tokens as people can read them, and the page of `/tokens-demo`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.contracts.chat import Painted
from luna_kernel.data.tokenizer import Tokenizer

from .page import TOKEN_STYLES, Page

t = catalogue(__package__)

CONTROL_STYLE = "bold white on #7a0019"
KINDS = ("control", "word", "inner", "number", "mark", "space")
"""What a token is: a control token, the beginning of a word, its continuation, digits, punctuation, white space."""
_WORDS = re.compile(r"\w+", re.UNICODE)


def piece(tokenizer: Tokenizer, id_: int) -> str:
    """A token as text: a blank is `·`, a byte that is no whole character is `<C3>`, a control token has its name."""
    name = control_name(tokenizer, id_)
    if name is not None:
        return name
    shown = ""
    for char in tokenizer.token_bytes(id_).decode("utf-8", "surrogateescape"):
        if "\udc80" <= char <= "\udcff":
            shown += f"<{ord(char) - 0xDC00:02X}>"
        elif char in " \n\t\r":
            shown += {" ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r"}[char]
        else:
            shown += char
    return shown


def control_name(tokenizer: Tokenizer, id_: int) -> str | None:
    """The name of a control token, None for a token of text."""
    return next((name for name, number in tokenizer.controls.items() if number == id_), None)


def kind_of(tokenizer: Tokenizer, id_: int) -> str:
    """One of `KINDS`. A word begins with a blank or a capital; bytes of a split character continue one."""
    if control_name(tokenizer, id_) is not None:
        return "control"
    text = tokenizer.token_bytes(id_).decode("utf-8", "surrogateescape")
    bare = text.strip()
    if not bare:
        return "space"
    if bare[0].isdigit():
        return "number"
    if bare[0].isalpha():
        return "word" if text[0].isspace() or bare[0].isupper() else "inner"
    return "inner" if "\udc80" <= bare[0] <= "\udcff" else "mark"


def styled(tokenizer: Tokenizer, ids: Sequence[int]) -> list[tuple[str, str]]:
    """Each token with its style, for `Page.flow`."""
    return [
        (
            piece(tokenizer, id_),
            CONTROL_STYLE if control_name(tokenizer, id_) else TOKEN_STYLES[place % len(TOKEN_STYLES)],
        )
        for place, id_ in enumerate(ids)
    ]


def tokens_page(tokenizer: Tokenizer, text: str) -> Painted:
    """How `text` becomes tokens: pieces, ids, bytes, words, and what text can never become."""
    ids = tokenizer.encode(text)
    page = Page()
    page.head(t("tokens.title", tokens=len(ids)))
    page.flow(styled(tokenizer, ids))
    rows = [[t("tokens.column.number"), "id", t("tokens.column.piece"), t("tokens.column.bytes")]]
    for number, id_ in enumerate(ids[:60], 1):
        rows.append([str(number), str(id_), piece(tokenizer, id_), tokenizer.token_bytes(id_).hex(" ").upper()])
    page.line()
    page.rows(rows)
    if len(ids) > 60:
        page.prose(t("more", count=len(ids) - 60))
    size = len(text.encode("utf-8", "replace"))
    words = len(_WORDS.findall(text))
    page.head(t("tokens.counts.title"))
    counts = {"chars": len(text), "bytes": size, "words": words, "tokens": len(ids)}
    page.prose(t("tokens.counts", **counts))
    if words and ids:
        ratio = {"per_word": number_text(len(ids) / words, 2), "per_token": number_text(size / len(ids), 2)}
        page.prose(t("tokens.ratio", **ratio))
    page.prose(t("tokens.vocab", size=tokenizer.vocab_size, controls=len(tokenizer.controls)))
    page.head(t("tokens.controls.title"))
    page.flow([(f"{name}={id_}", CONTROL_STYLE) for name, id_ in tokenizer.controls.items()])
    typed = [name for name in tokenizer.controls if name in text]
    if typed:
        pieces = " ".join(piece(tokenizer, id_) for id_ in tokenizer.encode(typed[0]))
        page.prose(t("tokens.controls.typed", name=typed[0], pieces=pieces))
    else:
        page.prose(t("tokens.controls.never"))
    return page.painted()
