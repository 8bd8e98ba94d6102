"""`luna plugins new NAME`: the template, which is itself a whole plugin called `xyz`, under another name."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

TEMPLATE = Path(__file__).parent / "plugin-template"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_LAST = "pyproject.toml"
_LEFT_OUT = ("__pycache__", ".egg-info", ".pytest_cache", "build")


def make_plugin(name: str, folder: Path | None, *, installed: set[str]) -> Path:
    """Write the new plugin's folder, by default `luna-plugin-NAME` here; returns where it is.

    Raises:
        UsageError: the name is no good or taken, or the folder is there already.
    """
    from luna_kernel.base.durable import write_text
    from luna_kernel.base.folders import make_folder, replace_folder
    from luna_kernel.plugins.known import known_plugins

    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in ("all", "none", "kernel"):
        raise UsageError(t("plugins.new.bad_name", name=name), hint=t("plugins.new.bad_name.hint"))
    if name in installed or name in known_plugins():
        raise UsageError(t("plugins.new.taken", name=name), hint=t("plugins.new.taken.hint"))
    distribution = f"luna-plugin-{name.replace('_', '-')}"
    target = folder if folder is not None else Path(distribution)
    if target.exists():
        raise UsageError(t("plugins.new.exists", folder=target), hint=t("plugins.new.exists.hint"))
    title = "".join(part.capitalize() for part in name.split("_"))
    with replace_folder(target, marker=_LAST) as new:
        for file in sorted(TEMPLATE.rglob("*"), key=lambda file: (file.name == _LAST, file)):
            relative = file.relative_to(TEMPLATE)
            if file.is_dir() or any(word in str(relative) for word in _LEFT_OUT):
                continue
            place = new / str(relative).replace("xyz", name)
            make_folder(place.parent)
            text = file.read_text(encoding="utf-8")
            for old, now in (("luna-plugin-xyz", distribution), ("xyz", name), ("Xyz", title)):
                text = text.replace(old, now)
            write_text(place, text)
    return target
