"""OpenAI's protocol: what a request may hold, and what answers look like.

Every field is honoured or refused by name; none is passed over in silence. A few of OpenAI's are taken with the one
value that changes nothing (`logprobs: false`), so that clients which always send them work. Luna's own fields stand
under `luna`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from luna_kernel.contracts.chat import Sampling


def _refuse_true(value: bool) -> bool:
    if value:
        raise ValueError("only false")
    return value


_Filled = Annotated[str, Field(min_length=1)]
# A Literal would take what is equal: 0 for false, true for 1.
_No = Annotated[bool, AfterValidator(_refuse_true), Field(json_schema_extra={"const": False})]
_Zero = Annotated[float, Field(ge=0, le=0)]
_One = Annotated[int, Field(ge=1, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(_Strict):
    """A part of a message's content; only text."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: None = None
    refusal: None = None
    reasoning_content: str | None = None
    """What was thought before this answer. Clients send whole messages back, so it is taken; the model is not told."""

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class LunaFields(_Strict):
    """What Luna adds to a request."""

    persona: str | None = None
    """Who speaks; `off` for nobody. None: the server's."""
    rag: bool = True
    """Whether the server's documents are searched."""
    filters: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field(default=[], max_length=20)
    """Conditions that passages must meet, as those of `luna search --filter`: `source=*.md`, `page>=3`."""
    session: str | None = Field(default=None, min_length=1, max_length=100)
    """Name of the conversation, which what people think of its answers is kept with. None: one is made of its
    beginning, so that the turns of one conversation have the same."""


class StreamOptions(_Strict):
    """What a stream tells beside the text."""

    include_usage: bool = False
    include_obfuscation: _No = False


class _Generating(_Strict):
    """What chat and plain completions share."""

    model: str = Field(min_length=1, max_length=200)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=8)
    stop: str | Annotated[list[_Filled], Field(max_length=4)] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)
    user: str | None = None
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    ignore_eos: bool = False
    """Go on to `max_tokens` whatever the model says; for measuring."""

    @property
    def limit(self) -> int | None:
        """Tokens of an answer at most."""
        return self.max_tokens

    def sampling(self, own: Sampling) -> Sampling:
        """How tokens are drawn: `own`, with what the request says."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        changes = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.seed is not None:
            changes["seed"] = self.seed % 2**63  # OpenAI's may be negative
        if self.limit is not None:
            changes["max_tokens"] = self.limit
        stops = (self.stop,) if isinstance(self.stop, str) and self.stop else tuple(self.stop or ())
        return replace(own, **changes, stop=stops)


class ResponseFormat(_Strict):
    """Plain text is the only form."""

    type: Literal["text"]


class ChatRequest(_Generating):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: _No | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = Field(default=None, max_length=0)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """Anything but `none`: think before the answer, if the model has learnt to. There is one effort."""
    store: _No | None = None
    metadata: dict[str, str] | None = None
    luna: LunaFields = LunaFields()

    @property
    def thinks(self) -> bool:
        """Whether a thought before the answer is wanted."""
        return self.reasoning_effort not in (None, "none")

    @property
    def conversation(self) -> str:
        """The conversation that this is a turn of: the name it was given, or a hash of everything up to the first
        thing that a person said."""
        if self.luna.session is not None:
            return self.luna.session
        begun: list[str] = []
        for message in self.messages:
            begun.append(f"{message.role}\0{message.text}")
            if message.role == "user":
                break
        return hashlib.sha256("\0".join(begun).encode()).hexdigest()[:32]

    @property
    def limit(self) -> int | None:
        """Tokens of the answer at most."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(_Generating):
    """`POST /v1/completions`: go on with a text, without the dialogue's template."""

    prompt: _Filled | Annotated[list[_Filled], Field(min_length=1, max_length=16)]
    echo: bool = False
    best_of: _One | None = None
    logprobs: None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str]:
        """The texts to go on with."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class EmbeddingRequest(_Strict):
    """`POST /v1/embeddings`."""

    model: str = Field(min_length=1, max_length=200)
    input: _Filled | Annotated[list[_Filled], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """The texts to embed."""
        return [self.input] if isinstance(self.input, str) else self.input


class FeedbackRequest(_Strict):
    """`POST /luna/feedback`: what a person thinks of an answer."""

    id: str = Field(max_length=100)
    rating: Literal["good", "bad"]
    correction: str = Field(default="", max_length=20_000)


def new_id(kind: str) -> str:
    """`chatcmpl-…`."""
    return f"{kind}-{secrets.token_hex(12)}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def usage(prompt: int, completion: int, thought: int | None = None) -> dict[str, Any]:
    """Tokens read and made; those of thoughts among them, where there were any."""
    details = {} if thought is None else {"completion_tokens_details": {"reasoning_tokens": thought}}
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **details}


def error_body(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
