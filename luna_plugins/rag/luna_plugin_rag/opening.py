"""Opening a knowledge base together with its documents: made where there is none, remade where it is damaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError, LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.knowledge import BaseGoneError
from luna_kernel.plugins.registry import Registry

from .chosen import as_chosen
from .config import KnowledgeConfig
from .filling import Summary
from .knowledge_base import KnowledgeBase
from .reading import check_path, list_files
from .stores import forget_store, is_knowledge_base, stored_in

t = catalogue(__package__)


def is_damage(error: LunaError) -> bool:
    """Whether an error is about what is stored, and not about where."""
    return isinstance(error, IntegrityError)


def open_filled(
    paths: Sequence[Path],
    folder: Path,
    registry: Registry,
    config: KnowledgeConfig | None = None,
    *,
    remake: Callable[[LunaError], bool] = is_damage,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> tuple[KnowledgeBase, Summary]:
    """A knowledge base that holds just the documents at `paths`, and what was done for that.

    One that was not there before and into which nothing could be read is not left behind.

    Args:
        paths: see `list_files`.
        folder: of the knowledge base.
        registry: see `KnowledgeBase`.
        config: see `KnowledgeBase`.
        remake: whether all that is stored may be given up for an error, since it can be made again of the documents:
            an `IntegrityError`, or a `BaseGoneError`, which more often is the wrong server than a loss.
        say: see `KnowledgeBase`; also told that it was remade.
        options: see `KnowledgeBase.sync`.

    Raises:
        LunaError: see `KnowledgeBase` and `KnowledgeBase.sync`.
    """
    config = config or KnowledgeConfig()
    for path in paths:
        check_path(path)  # before anything is made
    try:
        return _filled(paths, folder, registry, config, say, options)
    except (IntegrityError, BaseGoneError) as error:
        # What cannot be made again is not given up: a folder that is not mounted has no files.
        if not remake(error) or not list_files(paths, registry).files:
            raise type(error)(error.text, hint=t("kb.damaged.hint") if is_damage(error) else error.hint) from error
        say(t("kb.rebuilt", reason=error.text))
    if config.store is None and (named := stored_in(folder)):
        config = config.model_copy(update={"store": {"name": named}})
    forget_store(folder)
    return _filled(paths, folder, registry, config, say, options)


def _filled(
    paths: Sequence[Path],
    folder: Path,
    registry: Registry,
    config: KnowledgeConfig,
    say: Callable[[str], None],
    options: dict[str, Any],
) -> tuple[KnowledgeBase, Summary]:
    is_new = not is_knowledge_base(folder)
    knowledge = KnowledgeBase(folder, registry, as_chosen(folder, config) if is_new else config, say=say)
    try:
        return knowledge, knowledge.sync(paths, **options)
    except UsageError:
        if is_new:
            knowledge.store.discard()
            durable.remove_folder(folder)
        knowledge.close()
        raise
    except BaseException:
        knowledge.close()
        raise
