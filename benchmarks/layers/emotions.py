"""A router's head that hears emotions, trained on labelled sentences: what it hears, and what experts know of it.

    python benchmarks/layers/emotions.py TEXTS [--seconds 90] [--steps 60] [--seeds 0,1,2] [--tune] [--svg FILE]
                                         [--output FILE]

A small mixture of experts with the router `emotional`, `head: true`, first reads prose (TEXTS: .txt files or folders),
then the sentences of `emocoes.jsonl`: 220 in Portuguese, 20 for each of the eleven dimensions, written for this, told
their emotion (half of them) and taught it (all). Of each dimension every fourth sentence was put aside before anything
was tuned; `--tune` measures on the next one in each four instead, and leaves the held-out ones alone. Printed, of
held-out sentences and for each block: how often the head, on average over a sentence's tokens, finds the right one of
eleven, beside a naive Bayes of words and halves of words that saw the same sentences; and the mutual information of
the label and the expert: with the emotion given, with what the head hears as the signal, with neither, and with
shuffled labels.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from drawing import draw_heat
from luna_plugin_moe.emotions import EMOTIONS
from luna_plugin_moe.report import foretell, report
from prose import make_parser
from results import write_results

from luna_kernel.model.checkpoint import OpenedModel, open_model
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

SENTENCES = Path(__file__).with_name("emocoes.jsonl")
DIMS = {"d_model": 128, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "ffn_dim": 256}
NODE = {"num_experts": 8, "router": {"name": "emotional", "head": True, "head_weight": 10.0}}
CHARACTERS = 3_000_000
"""Of the prose, as many of each file as make about this together."""

Row = tuple[str, str]
"""A sentence and its emotion."""


def split(tune: bool) -> tuple[list[Row], list[Row]]:
    """What is learnt from, and what is measured on."""
    rows = [json.loads(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    pairs = [(row["text"], row["condition"]["emotion_label"]) for row in rows]
    test = [pair for index, pair in enumerate(pairs) if index % 4 == 0]
    dev = [pair for index, pair in enumerate(pairs) if index % 4 == 1]
    rest = [pair for index, pair in enumerate(pairs) if index % 4 > 1]
    return (rest, dev) if tune else (rest + dev, test)


def naive_bayes(train: Sequence[Row], test: Sequence[Row]) -> float:
    """Accuracy of words and their first five letters, counts plus one half."""

    def features(text: str) -> list[str]:
        words = re.findall(r"\w+|[?!]", text.lower())
        return [*words, *(f"{word[:5]}*" for word in words if len(word) > 5)]

    counts = {name: Counter[str]() for name in EMOTIONS}
    for text, name in train:
        counts[name].update(features(text))
    known = len({word for count in counts.values() for word in count})
    totals = {name: sum(count.values()) + known / 2 for name, count in counts.items()}
    right = 0
    for text, name in test:
        scores = {
            each: sum(math.log((counts[each][word] + 0.5) / totals[each]) for word in features(text))
            for each in EMOTIONS
        }
        right += max(EMOTIONS, key=lambda each: scores[each]) == name
    return right / len(test)


def trained(texts: Sequence[Path], train: Sequence[Row], seed: int, given: Any, folder: Path) -> OpenedModel:
    """A model that read prose, then the labelled sentences."""
    files = [file for path in texts for file in (sorted(path.rglob("*.txt")) if path.is_dir() else [path])]
    share = CHARACTERS // len(files) + 1
    prose, labelled = folder / "prose.txt", folder / "labelled.jsonl"
    read = [file.read_text(encoding="utf-8", errors="replace")[:share] for file in files]
    prose.write_text("\n\n".join(read), encoding="utf-8")
    rows = [
        {"text": text, "condition": {"emotion_label": name, **({"emotion": name} if index % 2 else {})}}
        for index, (text, name) in enumerate(train)
    ]
    labelled.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    plugins = load_plugins("moe")
    shared = {"seed": seed, "precision": "fp32", "preflight": False, "checkpoint_every": 0, "valid_every": 0}
    shared |= {"valid_fraction": 0.0, "sequence_length": 128, "objective": {"name": "lm"}}
    new = {"preset": "mini", "dims": {**DIMS, "max_positions": 128}, "components": ["moe"], "configs": {"moe": NODE}}
    new |= {"place": {"moe": "every block"}}
    first = shared | {"run_dir": folder / "prose", "train_data": (str(prose),), "vocab_size": 2048, "new_model": new}
    first |= {"max_seconds": given.seconds, "batch_size": 8, "learning_rate": 3e-3, "optimizer": {"name": "muon"}}
    base = train_model(TrainConfig.model_validate(first), plugins=plugins).model_dir
    second = shared | {"run_dir": folder / "labelled", "train_data": (str(labelled),), "model": base}
    second |= {"max_steps": given.steps, "batch_size": 8, "learning_rate": given.learning_rate}
    result = train_model(TrainConfig.model_validate(second), plugins=plugins)
    return open_model(result.model_dir, selection="moe")


def measure(opened: OpenedModel, test: Sequence[Row]) -> tuple[list[dict[str, float]], list[list[float]]]:
    """Of each block the figures; and what the last head hears on average in the sentences of each emotion (C, C)."""
    assert opened.tokenizer is not None
    ids = [opened.tokenizer.encode(text) for text, _ in test]
    labels = [{name: 1.0} for _, name in test]
    blocks = []
    for given, alone in zip(
        report(opened.model, ids, emotions=labels), report(opened.model, ids, labels=labels), strict=True
    ):
        assert given.observed
        assert alone.observed
        assert alone.heard
        figures = {"accuracy": alone.heard.accuracy, "given": given.observed.told, "heard": alone.observed.told}
        blocks.append(figures | {"silent": alone.observed.untold, "shuffled": given.observed.shuffled})
    heard: dict[str, list[torch.Tensor]] = {name: [] for name in EMOTIONS}
    for row, (_, name) in zip(ids, test, strict=True):
        heard[name].append(list(foretell(opened.model, row).values())[-1])
    return blocks, [torch.stack(heard[name]).mean(0).tolist() for name in EMOTIONS]


def spread(values: Sequence[float], form: str) -> str:
    """Median, lowest and highest."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


def main() -> None:
    """Run it."""
    parser = make_parser(__doc__ or "", seconds=90.0, learning_rate=1e-3, valid_samples=0)
    parser.add_argument("--steps", type=int, default=60, help="on the labelled sentences")
    parser.add_argument("--tune", action="store_true", help="measure on the development sentences")
    parser.add_argument("--svg", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = split(given.tune)
    found: list[list[dict[str, float]]] = []
    tables: list[list[list[float]]] = []
    for seed in map(int, given.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            blocks, table = measure(trained(given.texts, train, seed, given, Path(folder)), test)
        found.append(blocks)
        tables.append(table)
        print(f"seed {seed}: {json.dumps(blocks)}", flush=True)
    print(f"\n{len(train)} sentences to learn from, {len(test)} to measure on; chance {1 / len(EMOTIONS):.0%}")
    print(f"the right emotion: naive Bayes {naive_bayes(train, test):.0%}; the heads of blocks 0, 1, …")
    for block in range(len(found[0])):
        print(f"  {spread([blocks[block]['accuracy'] for blocks in found], '.0%')}")
    print("mutual information of emotion and expert, nats, by block")
    for name in ("given", "heard", "silent", "shuffled"):
        cells = [spread([blocks[block][name] for blocks in found], ".4f") for block in range(len(found[0]))]
        print(f"  {name:10}" + "  ".join(cells))
    write_results(given, {"naive_bayes": naive_bayes(train, test), "runs": found})
    if given.svg:
        names = [name if len(name) < 9 else f"{name[:7]}." for name in EMOTIONS]
        title = "What the head hears (across) in sentences of each emotion (down)"
        draw_heat(given.svg, title, EMOTIONS, names, tables[0])


if __name__ == "__main__":
    main()
