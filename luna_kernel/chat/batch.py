"""Many questions from a file to a file. Each is a conversation of its own; what is answered survives an interruption.

Answers are appended to a journal beside the output, `<output>.part`, whose first line says which batch it belongs to;
the same command again goes on where it stopped and tries again what failed. The output itself appears whole or not
at all, when everything has had its turn.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base import durable
from luna_kernel.base.encodings import decode
from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.base.reasons import reason_of
from luna_kernel.chat.answer_commands import changed, settable
from luna_kernel.chat.conversation import answer
from luna_kernel.chat.printing import Printer, answer_json, citation_line
from luna_kernel.chat.session import clean_query
from luna_kernel.contracts.chat import Citation, Event, Sampling, Turn

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)

JOURNAL = ".part"


@dataclass(frozen=True)
class Query:
    """One question with what it changes."""

    text: str
    persona: str | None = None
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Sampling`, as given."""


def read_queries(path: Path) -> list[Query]:
    """Questions of a file: a JSON list of `{"query": …, "persona": …, "temperature": …}`, the same as JSON lines, or
    text with one question a line.

    Raises:
        UsageError: it cannot be read, is not of this form, or a value cannot be; names the place.
    """
    try:
        text = decode(path.read_bytes())[0]
    except OSError as error:
        raise UsageError(t("batch.unreadable", path=path, reason=reason_of(error))) from error
    try:
        if path.suffix.lower() == ".json":
            nodes = json.loads(text)
        elif path.suffix.lower() == ".jsonl":
            nodes = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            nodes = [{"query": line} for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise UsageError(t("batch.syntax", path=path, reason=str(error)), hint=t("batch.form")) from error
    if not isinstance(nodes, list) or not nodes:
        raise UsageError(t("batch.empty", path=path), hint=t("batch.form"))
    return [_query(node, f"{path}, {number}") for number, node in enumerate(nodes, 1)]


def _query(node: Any, where: str) -> Query:
    """One item, validated."""
    known = ["query", "persona", "system", *settable()]
    if not isinstance(node, dict) or not isinstance(node.get("query"), str):
        raise UsageError(t("batch.no_query", where=where), hint=t("batch.form"))
    for name, value in node.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = t("batch.nearest", name=near[0]) if near else t("batch.known", names=", ".join(known))
            raise UsageError(t("batch.unknown_field", where=where, name=name[:40]), hint=hint)
        if name in ("persona", "system") and not isinstance(value, str | None):
            raise UsageError(t("batch.no_text", where=where, name=name), hint=t("batch.form"))
    sampling = {name: value for name, value in node.items() if name in settable() and value is not None}
    try:
        clean_query(node["query"])
        for name, value in sampling.items():
            changed(Sampling(), name, value)
    except UsageError as error:
        raise UsageError(f"{where}: {error.text}", hint=error.hint) from error
    return Query(node["query"], node.get("persona"), node.get("system"), sampling)


def run_batch(
    session: Session,
    queries: Sequence[Query],
    output: Path,
    *,
    say: Callable[[str], None],
    replace_output: bool = False,
) -> int:
    """Answer `queries` into `output`: `.json` a list, `.jsonl` lines, else text.

    Args:
        session: its options are those of every query that says nothing else.
        say: told after each answer.
        replace_output: an output that is there is overwritten.

    Returns:
        The exit status: 0, that of the last failure, or 130 after Ctrl-C.

    Raises:
        UsageError: the output is there, or its journal is another batch's.
        StorageError: the disk refuses; what was answered before is in the journal.
    """
    journal = output.with_name(output.name + JOURNAL)
    check_output(output, replace_output=replace_output)
    done = _open_journal(journal, _identity(session, queries))
    if done:
        say(t("batch.resumed", done=len(done), total=len(queries), path=journal))
    status = 0
    for number, query in enumerate(queries, 1):
        if number in done:
            continue
        try:
            stopped, result = _answer(session, query)
        except LunaError as error:
            stopped, result = False, {"query": query.text, "persona": query.persona, **error.to_json()}
            status = error.exit_code
        if stopped:
            say(t("batch.stopped", done=len(done), total=len(queries), path=journal))
            return 130
        done[number] = result
        durable.append_line(journal, json.dumps({"number": number, **result}, ensure_ascii=False), durable=True)
        say(_progress(number, len(queries), result))
    durable.write_text(output, _text(output, [done[number] for number in sorted(done)]))
    durable.remove_file(journal)
    say(t("batch.done", count=len(queries), path=output))
    return status


def check_output(output: Path, *, replace_output: bool) -> None:
    """Refuse to overwrite an output, before anything slow begins.

    Raises:
        UsageError: it is there.
    """
    if output.exists() and not replace_output:
        raise UsageError(t("batch.exists", path=output), hint=t("batch.exists.hint"))


class _Silent(Printer):
    """Shows nothing: the turn has it all."""

    def show(self, event: Event) -> None: ...

    def end(self, turn: Turn, session: Session) -> None: ...

    def remark(self, text: str) -> None: ...


def _answer(session: Session, query: Query) -> tuple[bool, dict[str, Any]]:
    """(whether Ctrl-C stopped it, the answer), in a new conversation with the query's own options."""
    common = session.options
    sampling = common.sampling
    for name, value in query.sampling.items():
        sampling = changed(sampling, name, value)
    session.clear()
    session.options = replace(
        common,
        sampling=sampling,
        persona=common.persona if query.persona is None else query.persona,
        context=common.context if query.system is None else query.system,
    )
    try:
        stopped = answer(session, query.text, _Silent())
        return stopped, answer_json(session.turns[-1], session)
    finally:
        session.options = common


def _identity(session: Session, queries: Sequence[Query]) -> str:
    """What must be the same for a journal to be gone on with: the questions, who answers, and how."""
    options = session.options
    who = [session.generator.name, options.model, session.plugins.names, options.persona, options.context]
    what = [[query.text, query.persona, query.system, dict(query.sampling)] for query in queries]
    data = json.dumps([who, str(options.sampling), [str(path) for path in options.docs], what], ensure_ascii=False)
    return hashlib.sha256(data.encode("utf-8", "replace")).hexdigest()


def _open_journal(journal: Path, identity: str) -> dict[int, dict[str, Any]]:
    """The answers so far by number; failures are left out, to be tried again. Without a journal, one is begun."""
    if not journal.exists():
        durable.write_text(journal, json.dumps({"batch": identity}) + "\n")
        return {}
    durable.repair_jsonl(journal)
    lines = _lines(journal)
    if next(lines, {}).get("batch") != identity:
        raise UsageError(t("batch.other", path=journal), hint=t("batch.other.hint", path=journal))
    return {line.pop("number"): line for line in lines if "number" in line and "answer" in line}


def _lines(journal: Path) -> Iterator[dict[str, Any]]:
    for line in journal.read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        if isinstance(found, dict):
            yield found


def _progress(number: int, total: int, result: Mapping[str, Any]) -> str:
    query = " ".join(str(result["query"]).split())[:60]
    if "error" in result:
        return t("batch.failed", number=number, total=total, query=query, reason=result["error"]["message"])
    return t(
        "batch.progress", number=number, total=total, query=query, seconds=number_text(result["timings"]["total"], 1)
    )


def _text(output: Path, results: Sequence[Mapping[str, Any]]) -> str:
    """The content of the output."""
    suffix = output.suffix.lower()
    if suffix == ".json":
        return json.dumps(results, ensure_ascii=False, indent=2) + "\n"
    if suffix == ".jsonl":
        return "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
    text = io.StringIO()
    for result in results:
        lines = [
            f"> {' '.join(result['query'].split())}",
            str(result.get("answer") or result["error"]["message"]).rstrip(),
        ]
        lines += [citation_line(Citation(**item)) for item in result.get("citations", [])]
        text.write("\n".join(lines) + "\n\n")
    return text.getvalue()
