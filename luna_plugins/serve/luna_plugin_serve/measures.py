"""What Prometheus may ask: how many, how fast, how full."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from .engine import Engine
    from .service import Answering

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_KNOWN = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/luna/info", "/luna/feedback",
          "/health", "/metrics", "/openapi.json", "/")  # fmt: skip


class Measures:
    """The server's figures, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("luna_requests", "Responses", ["path", "status"], registry=self.registry)
        self._first = Histogram(
            "luna_time_to_first_token_seconds", "Waiting and reading", buckets=_SECONDS, registry=self.registry
        )
        self._per_token = Histogram(
            "luna_time_per_token_seconds", "Between two tokens of an answer", buckets=_SECONDS, registry=self.registry
        )
        self._seconds = Histogram(
            "luna_answer_seconds", "From the request to the end", buckets=_SECONDS, registry=self.registry
        )
        for name, words, read in (
            ("luna_requests_running", "Requests being answered", lambda: engine.running),
            ("luna_requests_waiting", "Requests in the queue", lambda: engine.waiting),
            ("luna_tokens_generated_total", "Tokens made since the start", lambda: engine.tally.generated),
            ("luna_tokens_read_total", "Tokens of prompts read since the start", lambda: engine.tally.read),
        ):
            Gauge(name, words, registry=self.registry).set_function(read)

    def response(self, path: str, status: int) -> None:
        """Count a response."""
        self._requests.labels(path if path in _KNOWN else "other", str(status)).inc()

    def answered(self, answering: Answering) -> None:
        """Note how long an answer took."""
        self._seconds.observe(time.monotonic() - answering.begun)
        for job in answering.jobs:
            if job.first_at:
                self._first.observe(job.first_at - job.queued_at)
                if job.made > 1:
                    self._per_token.observe((job.ended_at - job.first_at) / (job.made - 1))

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
