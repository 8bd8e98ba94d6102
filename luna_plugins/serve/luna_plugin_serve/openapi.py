"""The description of the routes, from the very models that check requests."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from .protocol import ChatRequest, CompletionRequest, EmbeddingRequest, FeedbackRequest

_POSTS: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatRequest, "Answer a conversation"),
    "/v1/completions": (CompletionRequest, "Go on with a text"),
    "/v1/embeddings": (EmbeddingRequest, "Vectors of texts"),
    "/luna/feedback": (FeedbackRequest, "Say what an answer is worth"),
}
_GETS = {
    "/v1/models": "The models that are served",
    "/luna/info": "Model, personas and documents",
    "/health": "Whether the engine works",
    "/metrics": "Figures for Prometheus",
}
_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}


def _object(**properties: Any) -> dict[str, Any]:
    """An object that has these, and may have more."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_USED = _object(prompt_tokens=_COUNT, total_tokens=_COUNT)
_SAID = _object(role={"const": "assistant"}, content=_TEXT)
_REASON = {"enum": ["stop", "length"]}
_ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _object(
        id=_TEXT, object={"const": "chat.completion"}, created=_COUNT, model=_TEXT, usage=_USED,
        choices=_list(_object(index=_COUNT, message=_SAID, finish_reason=_REASON)),
    ),
    "/v1/completions": _object(
        id=_TEXT, object={"const": "text_completion"}, created=_COUNT, model=_TEXT, usage=_USED,
        choices=_list(_object(index=_COUNT, text=_TEXT, finish_reason=_REASON)),
    ),
    "/v1/embeddings": _object(
        object={"const": "list"}, model=_TEXT, usage=_USED,
        data=_list(_object(index=_COUNT, embedding={"anyOf": [_list(_NUMBER), _TEXT]})),
    ),
    "/luna/feedback": _object(ok={"const": True}),
    "/v1/models": _object(object={"const": "list"}, data=_list(_object(id=_TEXT, object={"const": "model"}))),
    "/luna/info": _object(
        model=_TEXT, version=_TEXT, personas=_list(_TEXT), documents=_list(_TEXT), can_think={"type": "boolean"}
    ),
    "/health": _object(status=_TEXT, running=_COUNT, waiting=_COUNT),
}  # fmt: skip
_ERRORS = {"400": "A field is wrong; `param` names it", "401": "The key is missing or wrong", "404": "Unknown",
           "413": "The request is too large", "421": "Not a name of this server", "429": "Too many requests wait",
           "500": "Luna failed"}  # fmt: skip


def openapi(version: str, model: str, *, needs_key: bool) -> dict[str, Any]:
    """An OpenAPI 3.1 document.

    Args:
        version: of Luna.
        model: the name of the model that is served.
        needs_key: whether requests must show a key.
    """
    schemas: dict[str, Any] = {"Error": _object(error=_object(message=_TEXT, type=_TEXT))}
    errors = {status: _answer(words, _json(_ref("Error"))) for status, words in _ERRORS.items()}
    paths: dict[str, Any] = {}
    for path, (kind, words) in _POSTS.items():
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
        if "model" in kind.model_fields:
            schema["properties"]["model"] = {"enum": sorted({model, "luna"})}
        content = _json(_ANSWERS[path])
        if "stream" in kind.model_fields:
            content["text/event-stream"] = {"schema": {}}
        body = {"required": True, "content": _json(_ref(kind.__name__))}
        responses = {"200": _answer("Done", content), **errors}
        paths[path] = {"post": {"summary": words, "requestBody": body, "responses": responses}}
    for path, words in _GETS.items():
        content = {"text/plain": {"schema": {}}} if path == "/metrics" else _json(_ANSWERS[path])
        failing = {"503": _answer("The engine does not work", _json({}))} if path == "/health" else {}
        responses = {"200": _answer("Done", content), **errors, **failing}
        paths[path] = {"get": {"summary": words, "responses": responses}}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Luna", "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if needs_key:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    return described


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answer(words: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": content}
