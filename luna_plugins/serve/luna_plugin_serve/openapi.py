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
_ERRORS = {"400": "A field is wrong; `param` names it", "401": "The key is missing or wrong", "404": "Unknown",
           "413": "The request is too large", "421": "Not a name of this server", "429": "Too many requests wait",
           "500": "Luna failed"}  # fmt: skip


def openapi(version: str, *, needs_key: bool) -> dict[str, Any]:
    """An OpenAPI 3.1 document."""
    schemas: dict[str, Any] = {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "object", "required": ["message", "type"]}},
        }
    }
    errors = {status: _answer(words, _json(_ref("Error"))) for status, words in _ERRORS.items()}
    paths: dict[str, Any] = {}
    for path, (model, words) in _POSTS.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
        content = _json({"type": "object"})
        if "stream" in model.model_fields:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        body = {"required": True, "content": _json(_ref(model.__name__))}
        responses = {"200": _answer("Done", content), **errors}
        paths[path] = {"post": {"summary": words, "requestBody": body, "responses": responses}}
    for path, words in _GETS.items():
        content = {"text/plain": {"schema": {}}} if path == "/metrics" else _json({})
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
