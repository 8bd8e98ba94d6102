"""The one reader gate: nothing reads an artefact before its bytes are known to be the ones that were written.

A manifest records size and SHA-256 of each file (`seal`); `check` compares before any library opens them. It detects
damage and mix-ups, not an attacker who rewrites files and manifest together. JSON is read strictly, with bounds.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.base.storage import TEMPORARY, size_text

t = catalogue(__package__)

_BLOCK = 1 << 20
_HEX = frozenset("0123456789abcdef")


def hash_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file as 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - unbuffered
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def seal(folder: str | os.PathLike[str], *, exclude: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """What a manifest records of the files below `folder`: `{"name": {"sha256": …, "bytes": …}}`, names sorted.

    Args:
        folder: the folder to seal.
        exclude: names (relative, with `/`) to leave out: the manifest itself.

    Raises:
        ValueError: there is a symbolic link, or something that is neither file nor folder.
    """
    root = Path(folder)
    left_out = set(exclude)
    files: dict[str, dict[str, Any]] = {}
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(place, name)
            mode = path.lstat().st_mode
            relative = path.relative_to(root).as_posix()
            if stat.S_ISDIR(mode) or relative in left_out or TEMPORARY.fullmatch(name):
                continue
            if not stat.S_ISREG(mode):
                raise ValueError(f"only regular files can be sealed: {relative}")
            files[relative] = {"sha256": hash_file(path), "bytes": path.stat().st_size}
    return dict(sorted(files.items()))


def check(
    folder: str | os.PathLike[str], files: Mapping[str, Any], *, verify: bool = True, blocks: str | None = None
) -> None:
    """Compare the files below `folder` with what the manifest records of them.

    Args:
        folder: where the files lie.
        files: name (relative, with `/`) to `{"sha256", "bytes"}`, as `seal` made it; it may come from a hostile file.
        verify: compare the hashes; without it only presence and size.
        blocks: ending of tables (see `block_sums`): a file whose table is among the files too is left to its reader,
            which compares each block before its first use. None: every file is compared as a whole.

    Raises:
        IntegrityError: a file is missing, has another size or other bytes, or a name leads outside `folder`.
    """
    root = Path(folder)
    real_root = os.path.realpath(root)
    expected = {name: _entry(root, name, entry) for name, entry in files.items()}
    for name, (size, _) in expected.items():
        path = _inside(root, real_root, name)
        try:
            status = path.stat()
        except OSError:
            raise _bad("integrity.missing", root, name) from None
        if not stat.S_ISREG(status.st_mode):
            raise _bad("integrity.not_a_file", root, name)
        if status.st_size != size:
            raise _bad("integrity.size", root, name, expected=size_text(size), found=size_text(status.st_size))
    if not verify:
        return
    for name, (_, digest) in expected.items():
        if blocks is not None and name + blocks in expected:
            continue
        try:
            found = hash_file(root / name)
        except OSError as error:
            raise _bad("integrity.unreadable", root, name, reason=reason_of(error)) from error
        if found != digest:
            raise _bad("integrity.hash", root, name)


def _bad(key: str, root: Path, name: object, **fields: object) -> IntegrityError:
    return IntegrityError(t(key, folder=root, name=name, **fields), hint=t("integrity.hint"))


def _entry(root: Path, name: object, entry: object) -> tuple[int, str]:
    """(bytes, sha256) of one manifest entry, whose shape is checked."""
    if isinstance(entry, Mapping):
        size, digest = entry.get("bytes"), entry.get("sha256")
        right_size = isinstance(size, int) and not isinstance(size, bool) and size >= 0
        if right_size and isinstance(digest, str) and len(digest) == 64 and set(digest) <= _HEX:
            assert isinstance(size, int)
            return size, digest
    raise _bad("integrity.entry", root, name)


def _inside(root: Path, real_root: str, name: object) -> Path:
    """The path of a manifest's name, which must stay below the folder, also through symbolic links."""
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise _bad("integrity.outside", root, name)
    path = root.joinpath(*parts)
    if not os.path.realpath(path).startswith(real_root.rstrip("/") + "/"):
        raise _bad("integrity.outside", root, name)
    return path


def read_json(path: str | os.PathLike[str], *, max_bytes: int = 64 << 20, max_depth: int = 100) -> Any:
    """Read a JSON file strictly: UTF-8, no NaN or infinity, no key twice, no half of a surrogate pair, bounded.

    Args:
        path: the file.
        max_bytes: larger files are refused unread.
        max_depth: how deep lists and objects may nest.

    Raises:
        UsageError: there is no such file.
        IntegrityError: it cannot be read or is not such JSON; the text names the file and the place.
    """
    path = Path(path)
    data = _read_bounded(path, max_bytes)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad_json(path, t("json.encoding", place=error.start)) from error
    _bound_depth(path, text, max_depth)
    try:
        value = json.loads(
            text, object_pairs_hook=_unique(path), parse_float=_finite(path), parse_constant=_constant(path)
        )
    except json.JSONDecodeError as error:
        raise _bad_json(path, t("json.syntax", line=error.lineno, column=error.colno)) from error
    except (RecursionError, ValueError) as error:  # a bound of Python's own: 4,300 digits, the stack
        raise _bad_json(path, t("json.bounds")) from error
    if "\\u" in text:  # a surrogate can only come from an escape: UTF-8 has none
        _refuse_surrogates(path, value)
    return value


def _read_bounded(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(t("json.missing", path=path), hint=t("json.missing.hint")) from None
    except OSError as error:
        raise _bad_json(path, reason_of(error)) from error
    if len(data) > max_bytes:
        raise _bad_json(path, t("json.too_large", limit=size_text(max_bytes)))
    return data


def _bad_json(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(t("json.bad", path=path, reason=reason), hint=t("integrity.hint"))


def _bound_depth(path: Path, text: str, max_depth: int) -> None:
    """Refuse nesting deeper than `max_depth` before a recursive parser sees it."""
    if text.count("[") + text.count("{") <= max_depth:
        return
    import re

    depth = 0
    for match in re.finditer(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', text, re.DOTALL):
        bracket = match.group()
        if bracket in "[{":
            depth += 1
            if depth > max_depth:
                raise _bad_json(path, t("json.too_deep", limit=max_depth, place=match.start()))
        elif bracket in "]}":
            depth -= 1


def _unique(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise _bad_json(path, t("json.duplicate", key=ascii(twice)[:80]))
        return built

    return build


def _constant(path: Path) -> Callable[[str], NoReturn]:
    def refuse(text: str) -> NoReturn:
        raise _bad_json(path, t("json.not_a_number", text=text))

    return refuse


def _finite(path: Path) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):  # 1e999
            raise _bad_json(path, t("json.not_a_number", text=text[:40]))
        return value

    return read


def _refuse_surrogates(path: Path, value: Any) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError:
                raise _bad_json(path, t("json.surrogate", text=ascii(item)[:80])) from None
