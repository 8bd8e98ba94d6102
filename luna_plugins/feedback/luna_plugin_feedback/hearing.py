"""From an answer and what somebody thinks of it to an entry in the store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .entry import Entry, judgement
from .privacy import redact_entry
from .store import opened

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session
    from luna_kernel.contracts.chat import Turn

t = catalogue(__package__)

STORED = "stored"
"""In a feedback dictionary: the id of the entry that holds it already."""
REDACT = "LUNA_FEEDBACK_REDACT"
"""The environment variable that masks personal data before anything is kept."""


def hear(session: Session, turn: Turn, feedback: Mapping[str, Any]) -> Entry:
    """Keep what somebody thinks of `turn`; returns the entry as it is kept now.

    Raises:
        UsageError: see `judgement`.
        StorageError: the disk refuses; nothing has changed.
    """
    fields = judgement(feedback)
    # The turn carries its entry's id, so that later words about the same answer amend it.
    name = turn.notes.setdefault("feedback", {"id": str(uuid.uuid4())})["id"]
    entry = Entry(
        prompt=prompt_of(session, turn),
        answer=turn.answer,
        model=session.options.model,
        generator=turn.generator or session.generator.name,
        sources=(*map(asdict, turn.citations), *map(asdict, turn.passages)),
        session_id=session.id,
        response_id=name,
        id=name,
        **fields,
    )
    if wants_redaction():
        entry = redact_entry(entry)[0]
    with opened() as store:
        return store.add(entry)


def wants_redaction() -> bool:
    """Whether the environment asks for personal data to be masked.

    Raises:
        UsageError: the variable says neither yes nor no.
    """
    value = os.environ.get(REDACT, "").strip().lower()
    if value in ("1", "true", "yes", "on", "sim"):
        return True
    if value in ("", "0", "false", "no", "off", "não", "nao"):
        return False
    raise UsageError(t("redact.variable", name=REDACT, value=value[:40]), hint=t("redact.variable.hint", name=REDACT))


def prompt_of(session: Session, turn: Turn) -> tuple[dict[str, str], ...]:
    """The messages before the answer as the model had them: system, the history that it was shown, the question."""
    system = "\n\n".join(part for part in turn.system if part)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": message.role, "content": message.content} for message in turn.history]
    return (*messages, {"role": "user", "content": turn.query})
