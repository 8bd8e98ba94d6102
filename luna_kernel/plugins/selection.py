"""Which plugins are on: the grammar of `--plugins` and `LUNA_PLUGINS`.

    all            every installed plugin (the default)
    none           no plugin
    moc,ssm        only these
    -rag           all but rag (with `all` implied)
    ./mine.py      a plugin in a file, beside installed ones

A plugin that a chosen one requires (`LUNA_REQUIRES`) is switched on with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)


@dataclass(frozen=True)
class Selection:
    """A parsed selection. `str(selection)` gives it back, so that a worker process can be told."""

    every: bool = True
    named: tuple[str, ...] = ()
    """Plugins that the user named: one that fails is an error, not a remark."""
    without: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Read the grammar above.

        Raises:
            UsageError: an empty item, or a name both in and out.
        """
        items = [item.strip() for item in text.split(",")]
        if items == [""]:
            raise UsageError(t("selection.empty"), hint=t("selection.hint"))
        named: list[str] = []
        without: list[str] = []
        files: list[str] = []
        words: set[str] = set()
        for item in items:
            if not item or item == "-":
                raise UsageError(t("selection.empty_item", text=text), hint=t("selection.hint"))
            if item in ("all", "none"):
                words.add(item)
            elif item.startswith("-"):
                without.append(item[1:])
            elif item.endswith(".py"):
                files.append(item)
            else:
                named.append(item)
        clash = sorted(set(named) & set(without))
        if clash or words == {"all", "none"} or ("none" in words and (named or without)):
            what = ", ".join(clash) or "none"
            raise UsageError(t("selection.contradiction", text=text, what=what), hint=t("selection.hint"))
        every = "all" in words or ("none" not in words and not named and bool(without or not files))
        return cls(every, tuple(dict.fromkeys(named)), tuple(dict.fromkeys(without)), tuple(dict.fromkeys(files)))

    def with_named(self, names: tuple[str, ...]) -> Selection:
        """The same selection with `names` switched on as well."""
        return Selection(self.every, tuple(dict.fromkeys(self.named + names)), self.without, self.files)

    def mended(self, names: tuple[str, ...], files: tuple[str, ...] = ()) -> Selection:
        """The same selection with `names` and `files` on, though it left them out."""
        return Selection(
            self.every,
            self.named if self.every else tuple(dict.fromkeys(self.named + names)),
            tuple(name for name in self.without if name not in names),
            tuple(dict.fromkeys(self.files + files)),
        )

    def __str__(self) -> str:
        parts = (["all"] if self.every else []) + list(self.named) + [f"-{name}" for name in self.without]
        return ",".join(parts + list(self.files)) or "none"
