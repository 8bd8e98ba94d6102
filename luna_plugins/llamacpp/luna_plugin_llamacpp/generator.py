"""A generator that answers with a GGUF file through llama.cpp."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.prompt import fit_messages
from luna_kernel.chat.streaming import ThoughtTags
from luna_kernel.contracts.chat import Event, Generator, Sampling, Text, Turn
from luna_kernel.contracts.data import Message

from .config import LlamaCppConfig
from .model import GgufModel
from .template import ChatTemplate, Prompt

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)


class LlamaCppGenerator(Generator):
    """A GGUF file that answers in its own chat template.

    What has been read is kept between turns: of the next prompt only what differs is read. Control tokens come from the
    template alone; see `template`.

    Args:
        model: the opened file.
        config: see `LlamaCppConfig`.
    """

    name = "llamacpp"

    def __init__(self, model: GgufModel, config: LlamaCppConfig) -> None:
        self.model = model
        self.config = config
        self.grounds_itself = config.grounds_itself
        self.num_parameters = int(model.llama._model.n_params())
        source = model.metadata.get("tokenizer.chat_template")
        self.template = ChatTemplate(
            source,
            model,
            begin=model.name_of(model.llama.token_bos()),
            end=model.name_of(model.llama.token_eos()),
            add_begin=bool(model.llama._model.add_bos_token()),
        )

    @classmethod
    def open(
        cls, model: str | None, *, plugins: Plugins, device: str = "cpu", config: LlamaCppConfig | None = None
    ) -> LlamaCppGenerator:
        """Open the GGUF file `model`.

        Raises:
            UsageError: no file was named, it cannot be opened, or the library is missing.
        """
        if not model:
            raise UsageError(t("file.none"), hint=t("file.hint"))
        config = config or LlamaCppConfig()
        threads = config.threads or _asked_threads() or os.cpu_count() or 1
        opened = GgufModel(Path(model).expanduser(), config, threads=threads, gpu=device != "cpu")
        return cls(opened, config)

    def describe(self) -> str | None:
        """That the file carries no chat template, if so."""
        return t("describe.plain") if self.template.plain else None

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.context_length

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens that `messages` cost in the prompt: their texts, and a few for the template around each."""
        return sum(len(self.model.tokenize(message.content)) + 8 for message in messages)

    def close(self) -> None:
        """Free the model's memory."""
        self.model.close()

    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        """Stream a thinking part, if the model makes one, and the answer."""
        from luna_kernel.model.generation import StopMatcher

        prompt = self._prompt(turn)
        turn.usage = {"prompt_tokens": len(prompt.ids), "cached_tokens": 0, "completion_tokens": 0}
        turn.stop_reason = "interrupted"
        tags, matcher = ThoughtTags(inside=prompt.inside_thinking), StopMatcher(turn.sampling.stop)
        decoder = self.model.stream()
        room = self.context_length - len(prompt.ids)
        thought = said = 0
        for id_ in self._ids(prompt.ids, turn, stop):
            if self.model.is_end(id_):
                turn.stop_reason = "end"
                break
            turn.usage["completion_tokens"] += 1
            thinking = tags.thinking
            thought, said = thought + thinking, said + (not thinking)
            for event in tags.push(decoder.push(id_)):
                shown = matcher.feed(event.text) if isinstance(event, Text) else event.text
                if shown:
                    yield type(event)(shown)
            if matcher.stopped:
                turn.stop_reason = "stop_string"
                break
            full = thought + said >= room - 1
            if full or said >= turn.sampling.max_tokens or (thinking and thought >= self.config.think_tokens):
                turn.stop_reason = "length"
                break
        if not matcher.stopped:
            rest = tags.finish()
            for event in rest:
                shown = matcher.feed(event.text) if isinstance(event, Text) else event.text
                if shown:
                    yield type(event)(shown)
            if held := ("" if matcher.stopped else matcher.flush()):
                yield Text(held)

    def _prompt(self, turn: Turn) -> Prompt:
        """The messages that fit, in the model's template."""
        messages, left_out = fit_messages(self, turn)
        prompt = self.template.render(messages, enable_thinking=turn.think, **self.config.template)
        while len(prompt.ids) >= self.context_length - 1 and len(messages) > 1:  # a template longer than we thought
            messages, left_out = messages[1:], left_out + 1
            prompt = self.template.render(messages, enable_thinking=turn.think, **self.config.template)
        if len(prompt.ids) >= self.context_length - 1:
            found, limit = len(prompt.ids), self.context_length
            raise UsageError(t("prompt.too_long", found=found, limit=limit), hint=t("prompt.too_long.hint"))
        if left_out:
            turn.notes["prompt"] = {"messages_left_out": left_out}
        return prompt

    def _ids(self, prompt: list[int], turn: Turn, stop: Callable[[], bool]) -> Iterator[int]:
        """Read what is new of the prompt, then draw ids without end; ends early when `stop()` is true."""
        model, llama = self.model, self.model.llama
        kept = model.keep(prompt)
        turn.usage["cached_tokens"] = kept
        rest = prompt[kept:]
        for start in range(0, len(rest), self.config.batch):
            if stop():
                return
            self._read(rest[start : start + self.config.batch])
        seed = turn.sampling.seed
        llama.set_seed(secrets.randbits(31) if seed is None else seed % (2**32 - 1))
        # One sampler for the whole answer: it holds the source of chance and what the repetition penalty has seen.
        llama._sampler = llama._init_sampler(**self._drawing(turn.sampling))
        try:
            while not stop():
                id_ = int(llama.sample())
                yield id_
                self._read([id_])
        finally:
            llama._sampler = None

    def _read(self, ids: list[int]) -> None:
        """Let the model read `ids`.

        Raises:
            LunaError: llama.cpp could not, for want of memory or of room in its cache. What had been read is forgotten,
                so that the next answer begins anew.
        """
        try:
            self.model.llama.eval(ids)
        except (RuntimeError, ValueError, MemoryError) as error:
            self.model.forget()
            raise LunaError(t("eval.failed", reason=str(error)[:300]), hint=t("eval.failed.hint")) from error

    @staticmethod
    def _drawing(sampling: Sampling) -> dict[str, Any]:
        return {
            "temp": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
        }


def _asked_threads() -> int:
    """The first number of `OMP_NUM_THREADS`, which may be a list (one per level of nesting); 0 where there is none."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0
