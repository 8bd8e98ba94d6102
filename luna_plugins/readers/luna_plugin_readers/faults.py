"""What people are told of a file that cannot be read: where it goes wrong, as far as that is known."""

from __future__ import annotations

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .layout import one_line

t = catalogue(__package__)


def damaged(source: str, error: Exception) -> UsageError:
    """A file that a library gave up on, with the library's own reason."""
    return UsageError(t("damaged", source=source, reason=one_line(str(error))[:200]), hint=t("damaged.hint"))


def bad_syntax(source: str, format_name: str, line: int, column: int) -> UsageError:
    """A file that breaks the rules of its format; line and column from 1."""
    text = t("syntax", source=source, format=format_name, line=line, column=column)
    return UsageError(text, hint=t("syntax.hint"))


def nested(source: str) -> UsageError:
    """A file whose parts lie too deep within each other."""
    return UsageError(t("nested", source=source), hint=t("damaged.hint"))


def not_text(source: str) -> UsageError:
    """A file of a format that is text, with bytes that no text has."""
    return UsageError(t("not_text", source=source), hint=t("not_text.hint"))


def nothing_in_it(source: str) -> UsageError:
    """A file without a byte."""
    return UsageError(t("nothing_in_it", source=source), hint=t("nothing_in_it.hint"))
