"""The page of `/explain`: the way of one answer, from its tokens to the choice of the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.contracts.chat import Painted, Turn

from .choosing import Choice, choices, sampling_of
from .experts import collaboration, expert_rows
from .page import Page, bar, clip
from .reading import Reading
from .tokens import piece, styled
from .tracing import Trace, attention_blocks

t = catalogue(__package__)

_TOKENS, _NAMED, _TOP, _LISTED = 48, 6, 6, 24


@dataclass(frozen=True)
class Look:
    """What of the answer is looked at closely."""

    layer: int | None = None
    """Block whose attention is drawn, from 0; None: the last that has one."""
    head: int = 0
    token: int = 1
    """Token of the answer whose choice is shown, from 1."""


def parse_look(argument: str) -> tuple[str, Look]:
    """`2 layer=1 head=0 token=3` as the turn's number and the rest.

    Raises:
        UsageError: another word, or no number.
    """
    number, fields = "", {}
    for word in argument.split():
        key, equals, value = word.partition("=")
        if equals and key in ("layer", "head", "token") and value.isdigit():
            fields[key] = int(value)
        elif word.isdigit() and not number:
            number = word
        else:
            raise UsageError(t("explain.usage", word=word[:40]), hint=t("explain.usage.hint"))
    return number, Look(**fields)


@torch.no_grad()
def explain_page(reading: Reading, look: Look, columns: int | None = None) -> Painted:
    """The whole path.

    Raises:
        UsageError: the model has no such layer, head or token.
    """
    blocks = attention_blocks(reading.model)
    layer = _layer(blocks, look)
    if not 1 <= look.token <= max(1, len(reading.answer)):
        raise UsageError(t("explain.no_token", token=look.token, count=len(reading.answer)))
    seen = reading.trace(layer)
    page = Page(columns)
    page.head(t("explain.title", number=reading.number, query=clip(reading.turn.query, 60)))
    page.prose(t("explain.intro", tokens=len(seen.ids)))
    if reading.rebuilt:
        page.prose(t("explain.rebuilt"))
    _tokens(page, reading)
    _embeddings(page, reading)
    _stream(page, seen)
    if layer is not None:
        _attention(page, reading, seen, layer, look.head)
    else:
        page.step(t("attention.title.none"))
        page.prose(t("attention.none"))
    _spaces(page, seen)
    _experts(page, reading, seen)
    _choice(page, reading, choices(reading, seen, max(_LISTED, look.token)), look.token)
    return page.painted()


def quoted_page(turn: Turn, number: int) -> Painted:
    """An answer that the model did not write: who did, and from what."""
    page = Page()
    page.head(t("explain.title", number=number, query=clip(turn.query, 60)))
    page.prose(t("quoted", name=turn.generator or "-"))
    note = turn.notes.get("rag", {})
    if turn.searched:
        fields = {
            "candidates": note.get("candidates", 0),
            "confidence": number_text(note.get("confidence", 0.0), 2),
            "threshold": number_text(note.get("threshold", 0.0), 2),
            "passages": len(turn.passages),
        }
        page.prose(t("quoted.search", **fields))
    for item in turn.passages:
        page.line(
            f"  [{item.number}] {bar(item.score)} {number_text(item.score, 2)}  {clip(item.text, page.columns - 36)}"
        )
    return page.painted()


def _layer(blocks: dict[int, int], look: Look) -> int | None:
    if look.layer is not None and look.layer not in blocks:
        there = ", ".join(map(str, blocks)) or "-"
        raise UsageError(t("explain.no_layer", layer=look.layer, blocks=there))
    layer = look.layer if look.layer is not None else max(blocks, default=None)
    if layer is not None and look.head >= blocks[layer]:
        raise UsageError(t("explain.no_head", head=look.head, layer=layer, last=blocks[layer] - 1))
    return layer


def _tokens(page: Page, reading: Reading) -> None:
    page.step(t("step.tokens"))
    shown = reading.prompt[-_TOKENS:]
    page.prose(t("step.tokens.text", prompt=len(reading.prompt), shown=len(shown), answer=len(reading.answer)))
    page.flow(styled(reading.generator.tokenizer, shown))


def _embeddings(page: Page, reading: Reading) -> None:
    weight = reading.model.embedding.weight
    tokenizer = reading.generator.tokenizer
    page.step(t("step.embeddings"))
    page.prose(t("step.embeddings.text", vocab=weight.shape[0], width=weight.shape[1]))
    controls = set(tokenizer.controls.values())
    said = [id_ for id_ in dict.fromkeys(reversed(reading.prompt)) if id_ not in controls][:_NAMED]
    rows = [[t("column.piece"), "id", t("column.norm"), t("column.nearest")]]
    for id_ in reversed(said):
        near = ", ".join(
            f"{piece(tokenizer, other)} {number_text(score, 2)}" for other, score in nearest(weight, id_, 3)
        )
        rows.append([piece(tokenizer, id_), str(id_), number_text(float(weight[id_].float().norm()), 2), near])
    page.rows(rows)


@torch.no_grad()
def nearest(weight: Tensor, id_: int, count: int) -> list[tuple[int, float]]:
    """The tokens whose embeddings have the largest cosine with that of `id_`, itself left out.

    Args:
        weight: (V, D).
    """
    unit = torch.nn.functional.normalize(weight.float(), dim=-1)
    scores = unit @ unit[id_]
    scores[id_] = -2.0
    best = scores.topk(min(count, len(scores) - 1))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _stream(page: Page, seen: Trace) -> None:
    page.step(t("step.stream"))
    page.prose(t("step.stream.text"))
    page.rows(stream_rows(seen))


def stream_rows(seen: Trace) -> list[list[str]]:
    """Norms at the last token, block by block."""
    rows = [[t(f"column.{name}") for name in ("block", "mixer", "ffn", "read", "mixed", "fed", "written")]]
    for index, block in enumerate(seen.blocks):
        numbers = (block.read, block.mixed, block.fed, block.written)
        rows.append([str(index), block.mixer, block.ffn, *(number_text(float(value[-1]), 2) for value in numbers)])
    return rows


def _attention(page: Page, reading: Reading, seen: Trace, layer: int, head: int) -> None:
    tokenizer = reading.generator.tokenizer
    for place, weights in seen.attention.items():
        page.step(t("step.attention", place=place, head=head, heads=weights.shape[0]))
        names = [clip(piece(tokenizer, id_), 12) for id_ in seen.ids]
        count = max(2, min(len(names), (page.columns - max(map(len, names)) - 6) // 2, 32))
        first = len(names) - count
        rows = [weights[head, row, first : row + 1].tolist() for row in range(first, len(names))]
        outside = float(weights[head, first:, :first].sum(-1).mean()) if first else 0.0
        page.prose(t("step.attention.text", count=count, outside=f"{100 * outside:.0f}"))
        page.heat(names[first:], rows, [f"{number % 100:2d}" for number in range(first + 1, len(names) + 1)])
        sinks = weights[head, -1].topk(min(3, len(names)))
        most = [
            f"{names[i]} {100 * v:.0f} %" for v, i in zip(sinks.values.tolist(), sinks.indices.tolist(), strict=True)
        ]
        page.prose(t("step.attention.most", token=names[-1], most=", ".join(most)))


def _spaces(page: Page, seen: Trace) -> None:
    if not seen.spaces:
        return
    page.step(t("step.space"))
    page.prose(t("step.space.text"))
    for space in seen.spaces:
        page.line(f"  {space.place}")
        memory = space.memory
        order = memory.argsort().tolist()
        shown = order if len(order) <= 8 else [order[round(i * (len(order) - 1) / 7)] for i in range(8)]
        rows = [[t("column.head"), t("column.decay"), t("column.memory"), t("column.state")]]
        for place in shown:
            norm, decay = float(space.state_norm[place]), float(space.decay[:, place].mean())
            rows.append(
                [
                    str(place),
                    f"{number_text(decay, 4)} {bar(decay, 12)}",
                    number_text(float(memory[place]), 1),
                    number_text(norm, 3),
                ]
            )
        page.rows(rows)


def _experts(page: Page, reading: Reading, seen: Trace) -> None:
    if not seen.routings and not seen.conferences:
        return
    page.step(t("step.experts"))
    page.prose(t("step.experts.text"))
    last = range(max(0, len(seen.ids) - 8), len(seen.ids))
    names = [clip(piece(reading.generator.tokenizer, id_), 14) for id_ in seen.ids]
    for routing in seen.routings:
        page.line(f"  {routing.place}")
        page.rows(expert_rows(routing, names, last))
    for conference in seen.conferences:
        page.prose(collaboration(conference))


def _choice(page: Page, reading: Reading, found: Sequence[Choice], token: int) -> None:
    tokenizer = reading.generator.tokenizer
    sampling = sampling_of(reading.turn.sampling)
    page.step(t("step.choice"))
    if not found:
        page.prose(t("step.choice.none"))
        return
    shown = {
        key: f"{getattr(sampling, key):g}" for key in ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
    }
    page.prose(t("step.choice.text", number=token, **shown))
    choice = found[token - 1]
    rows = [[t("column.piece"), "id", t("column.before"), t("column.after"), ""]]
    best = choice.before.topk(min(_TOP, len(choice.before))).indices.tolist()
    if choice.id is not None and choice.id not in best:
        best.append(choice.id)
    for id_ in best:
        before, after = float(choice.before[id_]), float(choice.after[id_])
        mark = t("chosen") if id_ == choice.id else ""
        rows.append(
            [
                piece(tokenizer, id_),
                str(id_),
                f"{bar(before, 12)} {number_text(before, 4)}",
                f"{bar(after, 12)} {number_text(after, 4)}",
                mark,
            ]
        )
    page.rows(rows)
    page.prose(t("step.choice.left", left=int((choice.after > 0).sum()), vocab=len(choice.after)))
    page.line()
    rows = [["", t("column.chosen"), t("column.rank"), t("column.before"), t("column.after")]]
    for number, each in enumerate(found[:_LISTED], 1):
        if each.id is None:
            ends = sorted(reading.generator.template.end_ids)
            before, after = (float(side[ends].sum()) for side in (each.before, each.after))
            rows.append([str(number), t("chosen.end"), "", number_text(before, 4), number_text(after, 4)])
        else:
            before, after = float(each.before[each.id]), float(each.after[each.id])
            rows.append(
                [str(number), piece(tokenizer, each.id), str(each.rank), number_text(before, 4), number_text(after, 4)]
            )
    page.rows(rows)
    if len(reading.answer) > _LISTED:
        page.prose(t("more", count=len(reading.answer) - _LISTED))
