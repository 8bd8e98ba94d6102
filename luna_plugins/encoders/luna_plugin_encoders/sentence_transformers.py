"""The encoder `sentence_transformers`: a folder of that library, read with `transformers` alone.

`modules.json` lists what happens to a text: a transformer, the pooling of its tokens, maybe dense layers, maybe
normalisation. Nothing is downloaded, no code of the folder is run, and weights are read from safetensors only. Control
tokens that stand in a text are plain characters.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from luna_kernel.base import integrity
from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import Encoder

from .config import SentenceConfig
from .pooling import WAYS, batches, padded, pool
from .source import check_source, fingerprint, write_source

t = catalogue(__package__)

_MODULES = "modules.json"
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Identity": lambda x: x, "Tanh": torch.tanh}

Matrix = npt.NDArray[np.float32]


class SentenceEncoder(Encoder):
    """Encodes a text as the folder's model does.

    Raises:
        UsageError: the folder is not one of sentence-transformers, holds a module that is not known here, has no
            safetensors weights; or `transformers` is not installed.
    """

    config: SentenceConfig

    def __init__(self, config: SentenceConfig) -> None:
        super().__init__(config)
        try:
            transformers: Any = importlib.import_module("transformers")
            tokenizers: Any = importlib.import_module("tokenizers")
        except ImportError as error:
            raise UsageError(t("library.missing"), hint=t("library.missing.hint")) from error
        self._folder = Path(config.folder).expanduser()
        modules = self._json(_MODULES)
        if not isinstance(modules, list) or not all(isinstance(m, dict) and "type" in m for m in modules):
            raise UsageError(t("folder.bad", folder=self._folder, file=_MODULES))
        self._hash = fingerprint(self._folder.rglob("*.safetensors"))
        self._way = "mean"
        self._after: list[Callable[[Tensor], Tensor]] = []
        for module in modules:
            self._take(str(module["type"]).rpartition(".")[2], str(module.get("path", "")), transformers)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(self._file(self._inside, "tokenizer.json")))
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._longest())
        with torch.inference_mode():
            self.dimension = int(self._vectors([self._ids("a")]).shape[1])

    def _take(self, kind: str, path: str, transformers: Any) -> None:
        """One of the folder's modules."""
        if kind == "Transformer":
            self._inside = path
            self._file(path, "model.safetensors")
            self._model = transformers.AutoModel.from_pretrained(
                self._folder / path, local_files_only=True, use_safetensors=True, trust_remote_code=False
            ).eval()
        elif kind == "Pooling":
            self._way = self._pooling(self._json(f"{path}/config.json"))
        elif kind == "Dense":
            self._after.append(self._dense(path))
        elif kind == "Normalize":
            self._after.append(lambda x: torch.nn.functional.normalize(x, dim=-1))
        else:
            raise UsageError(t("folder.module", folder=self._folder, module=kind))

    def _pooling(self, given: dict[str, Any]) -> str:
        chosen = [key for key, value in given.items() if key.startswith("pooling_mode_") and value is True]
        names = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean"}
        found = [names.get(name := key.removeprefix("pooling_mode_"), name.removesuffix("_tokens")) for key in chosen]
        if isinstance(given.get("pooling_mode"), str):
            found = [given["pooling_mode"]]
        if len(found) != 1 or found[0] not in WAYS:
            raise UsageError(t("folder.pooling", folder=self._folder, found=", ".join(found) or "-"))
        return found[0]

    def _dense(self, path: str) -> Callable[[Tensor], Tensor]:
        from safetensors.torch import load_file

        given = self._json(f"{path}/config.json")
        name = str(given.get("activation_function", "Tanh")).rpartition(".")[2]
        if name not in _ACTIVATIONS:
            raise UsageError(t("folder.module", folder=self._folder, module=f"Dense ({name})"))
        weights = load_file(self._file(path, "model.safetensors"))
        weight, bias = weights["linear.weight"].float(), weights.get("linear.bias")
        activation = _ACTIVATIONS[name]
        return lambda x: activation(torch.nn.functional.linear(x, weight, None if bias is None else bias.float()))

    def _longest(self) -> int:
        """Tokens that the model reads at most."""
        path = f"{self._inside}/sentence_bert_config.json".lstrip("/")
        given = self._json(path) if (self._folder / path).is_file() else {}
        limit = getattr(self._model.config, "max_position_embeddings", 512)
        return min(int(given.get("max_seq_length") or limit), int(limit))

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        """float32 (N, dimension), rows of length 1, or 0 for a text without a word; what is too long is cut."""
        prefix = self.config.query_prefix if query else self.config.passage_prefix
        filled = [place for place, text in enumerate(texts) if text.strip()]
        sequences = [self._ids(prefix + texts[place]) for place in filled]
        found = np.zeros((len(texts), self.dimension), np.float32)
        with torch.inference_mode():
            for group in batches(sequences, self.config.batch_tokens):
                vectors = self._vectors([sequences[index] for index in group])
                unit = torch.nn.functional.normalize(vectors, dim=-1)
                found[[filled[index] for index in group]] = unit.numpy()
        return found

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text.encode("utf-8", "replace").decode()).ids
        return ids

    def _vectors(self, sequences: list[list[int]]) -> Tensor:
        ids, there = padded(sequences, getattr(self._model.config, "pad_token_id", None) or 0)
        states = self._model(input_ids=ids, attention_mask=there.to(torch.int64)).last_hidden_state
        vectors = pool(states.float(), there, self._way)
        for step in self._after:
            vectors = step(vectors)
        return vectors

    def _file(self, *parts: str) -> Path:
        path = self._folder.joinpath(*parts)
        if not path.is_file():
            raise UsageError(t("folder.missing", folder=self._folder, file="/".join(filter(None, parts))))
        return path

    def _json(self, name: str) -> Any:
        try:
            return integrity.read_json(self._file(name))
        except UsageError:
            raise
        except LunaError as error:
            raise UsageError(error.text) from error

    def save(self, folder: Path) -> None:
        """Note which folder it was; the model itself stays where it is."""
        write_source(folder, self.config.folder, self._hash)

    @classmethod
    def load(cls, config: Any, folder: Path) -> SentenceEncoder:
        """Open what `save` wrote.

        Raises:
            OtherEncoderError: the weights have changed since.
        """
        encoder = cls(config)
        check_source(folder, config.folder, encoder._hash)
        return encoder
