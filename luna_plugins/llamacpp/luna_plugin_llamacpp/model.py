"""A GGUF file, opened by llama.cpp."""

from __future__ import annotations

import codecs
import ctypes
import struct
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of

from .config import LlamaCppConfig

t = catalogue(__package__)

_LONGEST_CONTEXT = 8192
"""Tokens, where nobody says more: the cache of a model that reads 128,000 would fill a laptop's memory."""
_MARKUP = ("<", "[")


def check_file(path: Path) -> None:
    """Refuse what is no GGUF file before llama.cpp reads it.

    Raises:
        UsageError: not there, unreadable, a folder, another format, or an unknown version of GGUF.
    """
    if path.is_dir():
        raise UsageError(t("file.folder", path=path), hint=t("file.hint"))
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except FileNotFoundError as error:
        raise UsageError(t("file.missing", path=path), hint=t("file.hint")) from error
    except OSError as error:
        raise UsageError(t("file.unreadable", path=path, reason=reason_of(error)), hint=t("file.hint")) from error
    if head[:4] != b"GGUF":
        raise UsageError(t("file.not_gguf", path=path), hint=t("file.not_gguf.hint"))
    if len(head) < 24:
        raise UsageError(t("file.broken", path=path), hint=t("file.broken.hint"))
    (version,) = struct.unpack("<I", head[4:8])
    if version not in (2, 3):
        raise UsageError(t("file.version", path=path, version=version), hint=t("file.version.hint"))


def import_library() -> Any:
    """llama-cpp-python.

    Raises:
        UsageError: it is not installed, or its library does not load.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise UsageError(t("library.missing"), hint=t("library.hint")) from error
    except (OSError, RuntimeError) as error:
        raise UsageError(t("library.broken", reason=str(error)[:300]), hint=t("library.hint")) from error
    return llama_cpp


class GgufModel:
    """A model with its vocabulary and its cache of what it has read.

    Args:
        path: the file.
        config: see `LlamaCppConfig`.
        threads: processor threads.
        gpu: whether layers go to the GPU.

    Raises:
        UsageError: the library is missing; the file is broken or of a kind that it does not know.
    """

    def __init__(self, path: Path, config: LlamaCppConfig, *, threads: int, gpu: bool) -> None:
        from jinja2 import TemplateError

        check_file(path)
        self.library = import_library()
        options = {
            "model_path": str(path), "n_batch": config.batch, "n_threads": threads, "n_threads_batch": threads,
            "n_gpu_layers": config.gpu_layers if gpu else 0, "last_n_tokens_size": config.penalty_window,
            "verbose": False,
        }  # fmt: skip
        try:
            self._context = self._context_of(path) if config.context_length is None else config.context_length
            self.llama = self.library.Llama(n_ctx=self._context, **options)
        except TemplateError as error:  # llama-cpp-python compiles the chat template when it opens the file
            raise UsageError(t("template.broken", reason=str(error)[:300]), hint=t("template.broken.hint")) from error
        except (ValueError, RuntimeError, UnicodeDecodeError, MemoryError) as error:
            raise UsageError(t("file.broken", path=path), hint=t("file.broken.hint")) from error
        self.metadata: dict[str, str] = self.llama.metadata
        self._vocab = self.llama._model.vocab
        self._pieces: dict[int, bytes] = {}
        self._read_vocabulary()

    def _context_of(self, path: Path) -> int:
        """The context length that the file states, bounded; reads its head only."""
        from llama_cpp._internals import LlamaModel
        from llama_cpp._logger import set_verbose

        set_verbose(False)
        params = self.library.llama_model_default_params()
        params.vocab_only = True
        probe: Any = LlamaModel(path_model=str(path), params=params, verbose=False)
        try:
            stated = [int(value) for name, value in probe.metadata().items() if name.endswith(".context_length")]
        finally:
            probe.close()
        return max(8, min([*stated, _LONGEST_CONTEXT]))

    def _read_vocabulary(self) -> None:
        library = self.library
        control = library.LLAMA_TOKEN_ATTR_CONTROL | library.LLAMA_TOKEN_ATTR_UNKNOWN
        self.controls: dict[str, int] = {}
        self.markup: list[str] = []
        for id_ in range(self.llama.n_vocab()):
            kind = library.llama_vocab_get_attr(self._vocab, id_)
            if not kind & (control | library.LLAMA_TOKEN_ATTR_USER_DEFINED):
                continue
            text = library.llama_vocab_get_text(self._vocab, id_).decode("utf-8", "replace")
            if kind & control:
                self.controls[text] = id_
            elif text.startswith(_MARKUP) and len(text) > 2:
                self.markup.append(text)

    def name_of(self, id_: int) -> str:
        """The text of a token; empty for none."""
        if id_ < 0:
            return ""
        text: bytes = self.library.llama_vocab_get_text(self._vocab, id_)
        return text.decode("utf-8", "replace")

    @property
    def context_length(self) -> int:
        """Tokens that fit into the cache."""
        return min(self._context, int(self.llama.n_ctx()))  # llama.cpp's cache is a multiple of 256

    def is_end(self, id_: int) -> bool:
        """Whether a token ends a turn or a text."""
        return bool(self.library.llama_vocab_is_eog(self._vocab, id_))

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`, with control tokens off and nothing added."""
        return [int(id_) for id_ in self.llama.tokenize(text.encode("utf-8", "replace"), add_bos=False, special=False)]

    def piece(self, id_: int) -> bytes:
        """The bytes of a token; none of a control token."""
        if id_ not in self._pieces:
            size = 64
            while True:
                buffer = ctypes.create_string_buffer(size)
                written = self.library.llama_token_to_piece(self._vocab, id_, buffer, size, 0, False)
                if written >= 0:
                    break
                size = -written  # that many are needed
            self._pieces[id_] = buffer.raw[:written]
        return self._pieces[id_]

    def stream(self) -> PieceStream:
        """A decoder of generated ids."""
        return PieceStream(self)

    def keep(self, prompt: list[int]) -> int:
        """Forget what has been read beyond its common beginning with `prompt`; returns the length of that beginning.

        The last token of the prompt is always read again, for the model's opinion on what follows. A model that
        cannot go back (recurrent layers) starts anew.
        """
        llama = self.llama
        same = 0
        limit = min(llama.n_tokens, len(prompt) - 1)
        seen = llama.input_ids[:limit].tolist()
        while same < limit and seen[same] == prompt[same]:
            same += 1
        if same < llama.n_tokens and (same == 0 or not llama._ctx.kv_cache_seq_rm(-1, same, -1)):
            self.forget()
            return 0
        llama.n_tokens = same
        return same

    def forget(self) -> None:
        """Forget what has been read."""
        self.llama.reset()
        self.llama._ctx.kv_cache_clear()

    def close(self) -> None:
        """Free the memory."""
        self.llama.close()


class PieceStream:
    """Turns ids into whole characters; bytes that begin one are held back."""

    def __init__(self, model: GgufModel) -> None:
        self._model = model
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id_: int) -> str:
        """The characters that this id completes."""
        return self._decoder.decode(self._model.piece(id_))

    def flush(self) -> str:
        """What was held back, at the end: half a character is dropped."""
        self._decoder.reset()
        return ""
