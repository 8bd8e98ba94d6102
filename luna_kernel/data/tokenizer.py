"""Byte-level BPE without a normaliser, and control tokens that text can never become.

Text is split by the regular expression that llama.cpp calls `llama-bpe` (Llama 3's), then merged over its UTF-8 bytes,
so `decode(encode(text)) == text` for every text. Control tokens (`<|user|>`, `<|end|>`, …) have ids above the text's.

On disk, `tokenizer.json` is the format of the `tokenizers` library, with the control tokens as its special tokens, so
that other tools read it. In memory, the object that encodes has no added tokens at all: it is not a flag that a save,
a load or a worker process could lose, but a vocabulary without them. Only `control_id`, which the dialogue template
calls, gives their ids.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenisation (`llama-bpe` in llama.cpp): no merge crosses its cuts."""

PAD, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"
THINKING, PROACTIVE, END = "<|thinking|>", "<|proactive|>", "<|end|>"
CONTROL_TOKENS = (PAD, USER, ASSISTANT, SYSTEM, THINKING, PROACTIVE, END)

TOKENIZER_FILE = "tokenizer.json"
DIALOGUE_FILE = "dialogue.json"
MIN_VOCAB_SIZE = 256 + len(CONTROL_TOKENS)

DIALOGUE: dict[str, Any] = {
    "format": 1,
    "roles": {"system": SYSTEM, "user": USER, "assistant": ASSISTANT},
    "thinking": THINKING,
    "proactive": PROACTIVE,
    "end": END,
}
"""The dialogue template as data; `luna_kernel.data.dialogue` says what it means."""

# Where the fast path and `tokenizers` may disagree is the age of their Unicode tables: which rare characters are
# letters. Latin, its punctuation and the euro sign are settled, and are what Portuguese is written in.
_SETTLED = re.compile("[\t\n\r\x20-\x7e\xa0-\u024f\u2010-\u2027\u2030-\u205e\u20ac]*")
_SURROGATES = re.compile("[\ud800-\udfff]")


def _byte_of_symbol() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTES = _byte_of_symbol()


class Tokenizer:
    """Text to ids and back.

    Args:
        description: the content of a `tokenizer.json`.
        dialogue: the dialogue template's data; None for Luna's own.

    Raises:
        UsageError: it is no byte-level BPE, or a control token that the template names is missing.
    """

    def __init__(self, description: Mapping[str, Any], dialogue: Mapping[str, Any] | None = None) -> None:
        self._description = dict(description)
        self.dialogue: dict[str, Any] = dict(dialogue or DIALOGUE)
        try:
            self._controls = {str(item["content"]): int(item["id"]) for item in description["added_tokens"]}
            model = _bpe_of(description)
            vocab = {str(piece): int(id_) for piece, id_ in model["vocab"].items()}
            reserved = set(self._controls.values())
            pieces = {piece: id_ for piece, id_ in vocab.items() if id_ not in reserved}
            table = {id_: bytes(_BYTES[symbol] for symbol in piece) for piece, id_ in pieces.items()}
            model["vocab"] = pieces
            text_only = {**description, "model": model, "added_tokens": [], "post_processor": None}
            self._text = tokenizers.Tokenizer.from_str(json.dumps(text_only))
        except UsageError:
            raise
        except Exception as error:  # the library raises bare Exception for what it cannot read
            raise UsageError(t("tokenizer.unreadable", reason=error), hint=t("tokenizer.not_bpe.hint")) from error
        self._size = 1 + max([*table, *self._controls.values()])
        self._bytes = [table.get(id_, b"") for id_ in range(self._size)]
        self._control_names = {id_: name for name, id_ in self._controls.items()}
        self._fast = _fast_path(self._bytes, description)
        self._check_controls()

    def _check_controls(self) -> None:
        wanted = [*self.dialogue["roles"].values(), self.dialogue["thinking"], self.dialogue["end"]]
        missing = [name for name in wanted if name not in self._controls]
        if missing:
            raise UsageError(t("tokenizer.no_control", names=", ".join(missing)))

    # --- making -----------------------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> Tokenizer:
        """Learn merges from texts.

        Args:
            texts: any iterable of texts, read once.
            vocab_size: entries wanted, bytes and control tokens included; a small corpus gives fewer.
            min_frequency: how often a pair must occur to be merged.

        Raises:
            UsageError: `vocab_size` is too small for the bytes and control tokens.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise UsageError(t("tokenizer.vocab_too_small", size=vocab_size, least=MIN_VOCAB_SIZE))
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(CONTROL_TOKENS),
            min_frequency=min_frequency,
            initial_alphabet=sorted(_BYTES),
            show_progress=False,
        )
        made.train_from_iterator((_valid(text) for text in texts), trainer)
        made.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in CONTROL_TOKENS])
        return cls(json.loads(made.to_str()))

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Open the tokenizer of a model's folder. Hashes are the caller's to check (`integrity.check`).

        Raises:
            UsageError: there is no tokenizer there, or of a kind that Luna does not have.
            IntegrityError: its file is damaged.
        """
        folder = Path(folder)
        description = integrity.read_json(folder / TOKENIZER_FILE)
        dialogue = integrity.read_json(folder / DIALOGUE_FILE) if (folder / DIALOGUE_FILE).is_file() else None
        return cls(description, dialogue)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `dialogue.json` into `folder`."""
        durable.write_json(Path(folder) / TOKENIZER_FILE, self._description)
        durable.write_json(Path(folder) / DIALOGUE_FILE, self.dialogue)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tokenizer, (self._description, self.dialogue))

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        return self._description

    # --- text to ids ----------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """The ids of any text; never a control id, whatever the text says.

        Halves of surrogate pairs, which no UTF-8 has, become U+FFFD.
        """
        if self._fast is not None and _SETTLED.fullmatch(text):
            ids: list[int] = self._fast.encode_ordinary(text)
            return ids
        return self._encode_slowly(_valid(text))

    def _encode_slowly(self, text: str) -> list[int]:
        ids: list[int] = self._text.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int], *, controls: bool = False) -> str:
        """The text of ids. Control tokens are left out, or shown by name with `controls`."""
        if not controls:
            return b"".join([self._bytes[id_] for id_ in ids]).decode("utf-8", "replace")
        names = self._control_names
        pieces = (names[id_].encode() if id_ in names else self._bytes[id_] for id_ in ids)
        return b"".join(pieces).decode("utf-8", "replace")

    def stream(self) -> TextStream:
        """A decoder for ids that come one by one."""
        return TextStream(self._bytes)

    # --- facts -------------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included."""
        return self._size

    @property
    def controls(self) -> dict[str, int]:
        """Control tokens by name."""
        return dict(self._controls)

    @property
    def pad_id(self) -> int:
        """The id that fills rows; the end token's where a tokenizer has no padding."""
        return self._controls.get(PAD, self._controls[self.dialogue["end"]])

    @property
    def end_id(self) -> int:
        """The id that ends a turn and a document."""
        return self._controls[self.dialogue["end"]]

    @property
    def is_fast(self) -> bool:
        """Whether the fast path (tiktoken) is used for common text."""
        return self._fast is not None

    def control_id(self, name: str) -> int:
        """The id of a control token.

        Raises:
            ValueError: there is no such control token.
        """
        if name not in self._controls:
            raise ValueError(f"no control token {name!r}; there are {', '.join(self._controls)}")
        return self._controls[name]

    def token_bytes(self, id_: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        return self._bytes[id_]

    def byte_lengths(self) -> list[int]:
        """How many bytes of text each id stands for, for losses per byte."""
        return [len(item) for item in self._bytes]


class TextStream:
    """Whole characters out of ids that come one by one: a character split over tokens waits for its last byte."""

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id_: int) -> str:
        """The characters that this id completes; often none."""
        return self._decoder.decode(self._table[id_])

    def feed(self, ids: Iterable[int]) -> Iterator[str]:
        """`push` for each id, the empty ones left out; ends with `flush`."""
        for id_ in ids:
            text = self.push(id_)
            if text:
                yield text
        self.flush()

    def flush(self) -> str:
        """End of the stream: bytes of a character that never became whole are dropped. Always the empty string."""
        self._decoder.reset()
        return ""


def _bpe_of(description: Mapping[str, Any]) -> dict[str, Any]:
    model = dict(description["model"])
    if model.get("type") != "BPE" or description.get("normalizer") is not None:
        raise UsageError(t("tokenizer.not_bpe"), hint=t("tokenizer.not_bpe.hint"))
    return model


def _valid(text: str) -> str:
    """`text` without halves of surrogate pairs."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def _fast_path(table: Sequence[bytes], description: Mapping[str, Any]) -> Any:
    """A tiktoken encoding with the same ranks, or None where it is not installed or could give other ids.

    tiktoken merges by the rank of the result. That equals merging by the list of merges when each merge makes a new
    token and the ids follow the order of merges, which is so for what `Tokenizer.train` makes and is checked here.
    """
    try:
        import tiktoken
    except ImportError:
        return None
    model = description["model"]
    vocab = model["vocab"]
    last = -1
    made = set()
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        id_ = vocab.get(left + right)
        if id_ is None or id_ <= last or id_ in made:
            return None
        last = id_
        made.add(id_)
    split = description["pre_tokenizer"].get("pretokenizers", [{}])[0].get("pattern", {}).get("Regex")
    singles = {item for item in table if len(item) == 1}
    if split != SPLIT_PATTERN or len(singles) != 256 or model.get("ignore_merges"):
        return None
    ranks = {item: id_ for id_, item in enumerate(table) if item}
    if len(ranks) != 256 + len(made):
        return None
    return tiktoken.Encoding("luna", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
