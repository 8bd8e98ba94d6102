"""Why the operating system refused, or a check of pydantic's, in the user's language."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

_KNOWN = ("EACCES", "EPERM", "ENOENT", "EISDIR", "ENOTDIR", "ENOSPC", "EDQUOT", "EROFS", "EIO", "EEXIST", "EMFILE",
          "ENAMETOOLONG", "ELOOP", "EBUSY", "EFBIG", "ENOTEMPTY")  # fmt: skip
_NAMES = {getattr(errno, name): name for name in _KNOWN if hasattr(errno, name)}


def reason_of(error: OSError) -> str:
    """The reason in a few words without a path, for the middle of a sentence; the system's own where we have none."""
    name = _NAMES.get(error.errno) if error.errno is not None else None
    return t(f"reason.{name}") if name else error.strerror or str(error)


_PROBLEMS = frozenset({
    "bool_parsing", "bool_type", "int_parsing", "int_type", "int_from_float", "float_parsing", "float_type",
    "finite_number", "string_type", "list_type", "tuple_type", "dict_type", "model_type", "greater_than_equal",
    "greater_than", "less_than_equal", "less_than", "string_too_short", "string_too_long", "too_short", "too_long",
    "literal_error", "missing", "extra_forbidden", "none_required", "path_type", "json_invalid",
})  # fmt: skip


def problem_of(item: Mapping[str, Any]) -> str:
    """What is wrong with a value, for the end of a sentence that names it.

    Args:
        item: one of a `ValidationError`'s `errors()`, with its context.
    """
    context = item.get("ctx") or {}
    if item["type"] in _PROBLEMS:
        fields: dict[str, Any] = dict(context)
        fields |= {key: round(x) for key, x in fields.items() if isinstance(x, float) and x.is_integer()}
        if "expected" in fields:  # 'a', 'b' or 'c'
            fields["expected"] = fields["expected"].replace(" or ", f" {t('problem.or')} ")
        bounds = fields.get("min_length"), fields.get("max_length")
        if bounds[1] == 0 and "long" in item["type"]:
            return t("problem.empty")
        if bounds[0] == 1 and "short" in item["type"]:
            return t("problem.filled")
        return t(f"problem.{item['type']}", **fields)
    return str(context["error"] if item["type"] == "value_error" and "error" in context else item["msg"])
