"""The routes: OpenAI's protocol, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from luna_kernel import __version__
from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue, language
from luna_kernel.base.reasons import problem_of

from .engine import QueueFullError
from .guard import Guard, Limits
from .handover import Piece
from .measures import Measures
from .openapi import openapi
from .protocol import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FeedbackRequest,
    error_body,
    now,
    usage,
)
from .service import Answering, CannotThinkError, Service

t = catalogue(__package__)

Asked = TypeVar("Asked", bound=BaseModel)

_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_INNER = ("str", "list[", "constrained-", "function-")
"""How pydantic calls the forms of a field that has several; no part of its name."""
_OBJECTS = {"chatcmpl": ("chat.completion", "chat.completion.chunk"), "cmpl": ("text_completion", "text_completion")}


class Server:
    """The application.

    Args:
        service: what answers.
        limits: who may ask for what.
    """

    def __init__(self, service: Service, limits: Limits) -> None:
        self.service = service
        self.limits = limits
        self.measures = Measures(service.engine)
        self.started = now()
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/embeddings", self.embed, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/luna/info", self.info, methods=["GET"]),
            Route("/luna/feedback", self.feedback, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
            *(Route(path, self.file, methods=["GET"]) for path in _FILES),
        ]
        self.app = Starlette(
            routes=routes,
            middleware=[Middleware(Guard, limits=limits, measures=self.measures)],
            exception_handlers={HTTPException: _http_error, LunaError: _luna_error, Exception: _failure},
        )

    # --- answers ---------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        asked = await _read(request, ChatRequest)
        self._check_model(asked.model)
        return await self._answer(request, asked, await self.service.chat(asked))

    async def complete(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        asked = await _read(request, CompletionRequest)
        self._check_model(asked.model)
        prompts = asked.prompts
        answering = await self.service.complete(asked)
        echo = [text for text in prompts for _ in range(asked.n)] if asked.echo else None
        return await self._answer(request, asked, answering, echo)

    async def _answer(
        self,
        request: Request,
        asked: ChatRequest | CompletionRequest,
        answering: Answering,
        echo: list[str] | None = None,
    ) -> Response:
        if asked.stream:
            include = asked.stream_options is not None and asked.stream_options.include_usage
            body = self._stream(answering, include_usage=include, echo=echo)
            return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        gone = asyncio.create_task(_until_gone(request))
        collecting = asyncio.create_task(_collect(answering.pieces, echo))
        try:
            await asyncio.wait([gone, collecting], return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                return Response(status_code=499)  # nobody is there to read it
            texts = collecting.result()
        finally:
            gone.cancel()
            collecting.cancel()
            answering.cancel()
            self.measures.answered(answering)
        return JSONResponse(self._whole(answering, texts))

    def _whole(self, answering: Answering, texts: dict[int, _Said]) -> dict[str, Any]:
        kind = answering.id.partition("-")[0]
        choices = []
        for index, answer in sorted(texts.items()):
            thought = {"reasoning_content": answer.thought} if answering.turn.think else {}
            said = (
                {"message": {"role": "assistant", "content": answer.text, "refusal": None, **thought}}
                if kind == "chatcmpl"
                else {"text": answer.text}
            )
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": answer.reason})
        return {
            **self._head(answering, _OBJECTS[kind][0]),
            "choices": choices,
            "usage": _used(answering),
            **_extras(answering),
        }

    async def _stream(
        self, answering: Answering, *, include_usage: bool, echo: list[str] | None
    ) -> AsyncIterator[bytes]:
        """Server-sent events; whoever goes away has its requests cancelled."""
        kind = answering.id.partition("-")[0]
        head = self._head(answering, _OBJECTS[kind][1])
        opened: set[int] = set()

        def chunk(index: int, text: str, reason: str | None, name: str) -> bytes:
            if kind == "chatcmpl":
                delta: dict[str, str] = {} if reason else {name: text}
                if index not in opened:
                    delta = {"role": "assistant", **delta}
                said: dict[str, Any] = {"delta": delta}
            else:
                start = echo[index] if echo and index not in opened else ""
                said = {"text": start + text}
            opened.add(index)
            choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
            extra = _extras(answering) if reason else {}
            return _event({**head, "choices": [choice], **({"usage": None} if include_usage else {}), **extra})

        try:
            async for piece in answering.pieces:
                yield chunk(piece.index, piece.text, piece.reason, "reasoning_content" if piece.thought else "content")
            if include_usage:
                used = _used(answering)
                yield _event({**head, "choices": [], "usage": used})
            yield b"data: [DONE]\n\n"
        except LunaError as error:  # the head was sent with 200 already
            yield _event(error_body(error.text, "server_error"))
        finally:
            answering.cancel()
            self.measures.answered(answering)

    def _head(self, answering: Answering, kind: str) -> dict[str, Any]:
        return {"id": answering.id, "object": kind, "created": now(), "model": self.service.name}

    def _check_model(self, name: str) -> None:
        if name not in (self.service.name, "luna"):
            raise HTTPException(404, t("unknown_model", name=name[:100], models=self.service.name))

    # --- the rest --------------------------------------------------------------------------------------------------

    async def embed(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        asked = await _read(request, EmbeddingRequest)
        self._check_model(asked.model)
        vectors, count = await asyncio.to_thread(self.service.embed, asked.texts)
        packed = asked.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() if packed else v,
            }
            for index, v in enumerate(vectors)
        ]
        used = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": self.service.name, "usage": used})

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/NAME`."""
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        limit = self.service.generator.context_length
        return {
            "id": self.service.name,
            "object": "model",
            "created": self.started,
            "owned_by": "luna",
            "max_model_len": limit,
            "can_think": self.service.generator.can_think,
        }

    async def info(self, request: Request) -> Response:
        """What the page shows: model, personas, documents, language."""
        session = self.service.session
        personas = (
            [item.name for item in session.plugins.registry.of_kind("persona")] if session.step("persona") else []
        )
        return JSONResponse(
            {
                "model": self.service.name,
                "version": __version__,
                "personas": personas,
                "persona": self.service.persona,
                "can_think": self.service.generator.can_think,
                "documents": [path.name for path in session.options.docs],
                "language": language(),
                "plugins": session.plugins.names,
            }
        )

    async def feedback(self, request: Request) -> Response:
        """`POST /luna/feedback`."""
        asked = await _read(request, FeedbackRequest)
        told = await asyncio.to_thread(self.service.feedback, asked.id, asked.model_dump(exclude={"id"}))
        if not told:
            raise HTTPException(404, t("unknown_answer", id=asked.id))
        return JSONResponse({"ok": True})

    async def health(self, request: Request) -> Response:
        """200 while the engine works, 503 when it does not."""
        engine = self.service.engine
        body = {"status": "ok" if engine.alive else "failed", "running": engine.running, "waiting": engine.waiting}
        return JSONResponse(body, 200 if engine.alive else 503)

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text."""
        return Response(self.measures.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """The description of these routes."""
        return JSONResponse(openapi(__version__, self.service.name, needs_key=self.limits.key is not None))

    async def file(self, request: Request) -> Response:
        """The page and its two files."""
        name, kind = _FILES[request.url.path]
        body = (resources.files(__package__) / "static" / name).read_bytes()
        return Response(body, media_type=kind, headers=_PAGE_HEADERS)


async def _read(request: Request, kind: type[Asked]) -> Asked:
    """The body as `kind`.

    Raises:
        HTTPException: no JSON, or a field that is wrong or unknown; `param` names it.
    """
    try:
        data = json.loads((await request.body()).decode("utf-8"), parse_constant=_no_constant)
        data = json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise HTTPException(400, t("no_json")) from None
    if not isinstance(data, dict):
        raise HTTPException(400, t("no_object"))
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(_INNER))
        unknown = first["type"] == "extra_forbidden"
        message = t("unknown_field", field=place) if unknown else t("bad_field", field=place, reason=problem_of(first))
        raise HTTPException(400, json.dumps(error_body(message, "invalid_request_error", param=place))) from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _extras(answering: Answering) -> dict[str, Any]:
    """Luna's own: milliseconds, and what the answer rests on."""
    extras: dict[str, Any] = {}
    if timings := answering.timings():
        extras["timings"] = timings
    turn = answering.turn
    if turn.searched or turn.passages:
        passages = [
            {"number": p.number, "source": p.source, "title": p.title, "heading": p.heading, "text": p.text,
             "start": p.start, "end": p.end, "line": p.line, "page": p.page, "score": round(p.score, 4)}
            for p in turn.passages
        ]  # fmt: skip
        citations = [{"number": c.number, "start": c.start, "end": c.end, "text": c.text} for c in turn.citations]
        extras["luna"] = {"passages": passages, "citations": citations, "searched": turn.searched}
    return extras


@dataclass
class _Said:
    """A whole answer."""

    text: str
    thought: str = ""
    reason: str | None = None


async def _collect(pieces: AsyncIterator[Piece], echo: list[str] | None) -> dict[int, _Said]:
    """The answers by their index."""
    answers: dict[int, _Said] = {}
    async for piece in pieces:
        answer = answers.setdefault(piece.index, _Said(echo[piece.index] if echo else ""))
        answer.reason = piece.reason or answer.reason
        if piece.thought:
            answer.thought += piece.text
        else:
            answer.text += piece.text
    return answers


def _used(answering: Answering) -> dict[str, Any]:
    return usage(answering.prompt_tokens, answering.completion_tokens, answering.thought_tokens)


async def _until_gone(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n".encode()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    if error.detail in ("Not Found", "Method Not Allowed"):  # the words of the router
        name = "other_method" if error.status_code == 405 else "unknown_path"
        error.detail = t(name, path=request.url.path[:100], method=request.method)
    try:
        body = json.loads(error.detail)
    except ValueError:
        body = error_body(error.detail, kinds.get(error.status_code, "invalid_request_error"))
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _luna_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LunaError)
    if isinstance(error, QueueFullError):
        body = error_body(error.text, "rate_limit_error", code="queue_full")
        return JSONResponse(body, 429, headers={"Retry-After": "2"})
    if isinstance(error, CannotThinkError):
        return JSONResponse(error_body(error.text, "invalid_request_error", param="reasoning_effort"), 400)
    if isinstance(error, UsageError):
        field = f"luna.{error.about}" if error.about else None
        return JSONResponse(error_body(str(error) if field else error.text, "invalid_request_error", param=field), 400)
    return JSONResponse(error_body(error.text, "server_error"), 500)


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse(error_body(t("failed"), "server_error"), 500)
