"""One model for texts of several domains: what knowing the domain is worth, and what a wrong one costs.

    python benchmarks/layers/domains.py literatura=FOLDER programacao=FOLDER [--seeds 0,1,2]
                                        [--svg FILE] [--output FILE]

Each domain is a folder of .txt or .md files; the last twentieth of each file is held out, and from every domain the
same number of pieces is taken. All models see the same pieces in the same order; a fifth of the pieces come without
their domain, so that a model also learns to do without it. `plain` is never told, and its feed-forward layers are made
wider until it has at least the parameters of the adapted models. Printed: bits per byte of held-out text of each
domain, told the right domain, a wrong one and none; the median of the seeds, the lowest and the highest; then how the
first seed's `domain_adapter` goes on from one opening in each domain. `--svg` draws by how much each domain raises or
lowers each channel of each feed-forward layer there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from drawing import draw_stripes
from luna_plugin_hypernet.domain import DomainSpecificHyperAdapter
from results import add_output, write_results

from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.model.checkpoint import OpenedModel, open_model
from luna_kernel.model.generation import generate
from luna_kernel.model.sampling_config import Sampling
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

CONDITION, PIECE, LENGTH = "domain", 600, 128
"""The name of the condition; characters of a piece; tokens of a row."""
DIMS = {"d_model": 96, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 24, "max_positions": 256}
FFN, PLAIN_FFN = 256, 288
SIZES = {"domains": 4, "embedding": 8}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "hyper_adapter, film": {"hyper_adapter": {"form": "film", "width": 4}},
    "hyper_adapter, bases": {"hyper_adapter": {"form": "bases", "width": 4}},
    "domain_adapter": {"domain_adapter": {**SIZES, "form": "film"}},
}
OPENING = "Quando"
Texts = dict[str, list[str]]


def read_texts(domains: Mapping[str, Path], pieces: int, held: int) -> tuple[Texts, Texts]:
    """Pieces to learn from and held-out ones, of each domain equally many, in an order fixed by a seed."""
    train: Texts = {}
    valid: Texts = {}
    for name, folder in domains.items():
        files = [path for ending in ("*.txt", "*.md") for path in sorted(folder.rglob(ending))]
        read = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.name != "SOURCE.md"]
        for found, parts, count in (
            (train, [text[: len(text) * 19 // 20] for text in read], pieces),
            (valid, [text[len(text) * 19 // 20 :] for text in read], held),
        ):
            cut = [part[at : at + PIECE] for part in parts for at in range(0, len(part) - PIECE // 2, PIECE)]
            random.Random(0).shuffle(cut)
            found[name] = cut[:count]
    for found in (train, valid):
        least = min(map(len, found.values()))
        found.update({name: cut[:least] for name, cut in found.items()})
    return train, valid


def write_data(path: Path, texts: Texts) -> None:
    """One object a line; every fifth of a domain without it."""
    rows = []
    for name, pieces in texts.items():
        for index, text in enumerate(pieces):
            rows.append({"text": text, **({} if index % 5 == 4 else {"condition": {CONDITION: name}})})
    random.Random(1).shuffle(rows)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def trained(case: str, seed: int, steps: int, data: Path, tokenizer: Path, folder: Path) -> OpenedModel:
    """A model of the case."""
    configs = CASES[case]
    new = {
        "preset": "mini",
        "dims": {**DIMS, "ffn_dim": FFN if configs else PLAIN_FFN},
        "components": list(configs),
        "place": dict.fromkeys(configs, "ffn of every block"),
        "configs": configs,
    }
    fields = {"run_dir": folder, "train_data": (str(data),), "tokenizer": tokenizer, "new_model": new, "seed": seed}
    fields |= {"max_steps": steps, "batch_size": 8, "sequence_length": LENGTH, "valid_every": 0, "valid_fraction": 0.0}
    fields |= {"precision": "fp32", "learning_rate": 3e-3, "preflight": False, "checkpoint_every": 0}
    fields |= {"objective": {"name": "lm"}, "optimizer": {"name": "muon"}}
    result = train_model(TrainConfig.model_validate(fields), plugins=load_plugins("hypernet"))
    return open_model(result.model_dir, selection="hypernet")


@torch.no_grad()
def bits_per_byte(opened: OpenedModel, texts: Sequence[str], told: str | None) -> float:
    """Of the texts, each read alone and told `told`; None: nothing is said."""
    assert opened.tokenizer is not None
    nats = size = 0.0
    names = LunaGenerator(opened).conditions.get(CONDITION, ())
    for text in texts:
        ids = torch.tensor([opened.tokenizer.encode(text)[: DIMS["max_positions"]]])
        vector = torch.zeros(1, opened.model.conditions.get(CONDITION, 1))
        if told is not None:
            vector[0, list(names).index(told)] = 1.0
        given = {CONDITION: vector} if opened.model.conditions else None
        nats += float(opened.model.token_losses(ids[:, :-1], ids[:, 1:], condition=given).sum_loss)
        size += len(opened.tokenizer.decode(ids[0, 1:].tolist()).encode())
    return nats / math.log(2) / size


def measure(opened: OpenedModel, valid: Texts) -> dict[str, dict[str, float]]:
    """{domain of the text: {right, wrong, none: bits per byte}}; the plain model is told nothing."""
    if not opened.model.conditions:
        return {name: {"none": bits_per_byte(opened, texts, None)} for name, texts in valid.items()}
    found = {}
    for name, texts in valid.items():
        wrong = [bits_per_byte(opened, texts, other) for other in valid if other != name]
        right, none = bits_per_byte(opened, texts, name), bits_per_byte(opened, texts, None)
        found[name] = {"right": right, "wrong": statistics.fmean(wrong), "none": none}
    return found


def continued(opened: OpenedModel, told: str) -> str:
    """How the model goes on from the opening in a domain."""
    assert opened.tokenizer is not None
    vector = torch.zeros(1, opened.model.conditions[CONDITION])
    vector[0, list(LunaGenerator(opened).conditions[CONDITION]).index(told)] = 1.0
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=0)
    ids = opened.tokenizer.encode(OPENING)
    run = generate(opened.model, ids, sampling, max_tokens=48, condition={CONDITION: vector})
    for _ in run:
        pass
    return " ".join((OPENING + opened.tokenizer.decode(run.tokens)).split())


@torch.no_grad()
def gains(opened: OpenedModel, domains: Sequence[str]) -> dict[str, list[float]]:
    """{block and domain: γ of each channel (D,)} of a `domain_adapter` of the form film."""
    names = list(LunaGenerator(opened).conditions[CONDITION])
    adapters = [part.module for part in opened.model.parts if isinstance(part.module, DomainSpecificHyperAdapter)]
    found = {}
    for block, adapter in enumerate(adapters):
        for told in domains:
            h = adapter.network(adapter.embedding[names.index(told)])
            found[f"block {block}, {told}"] = (adapter.form.scale * adapter.form.gain @ h).tolist()
    return found


def print_results(runs: list[dict[str, Any]], domains: Sequence[str]) -> None:
    """The table."""
    heads = "".join(f"{head:>24}" for head in ("told right", "wrong", "none"))
    print(f"\nbits per byte of held-out text\n  {'':24}{'parameters':>11}  {'text':14}{heads}")
    for case in dict.fromkeys(run["case"] for run in runs):
        mine = [run for run in runs if run["case"] == case]
        for domain in domains:
            cells = []
            for told in ("right", "wrong", "none"):
                values = [run["found"][domain][told] for run in mine if told in run["found"][domain]]
                if not values:
                    cells.append("-")
                    continue
                cells.append(f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
            print(f"  {case:24}{mine[0]['parameters']:11,}  {domain:14}" + "".join(f"{cell:>24}" for cell in cells))


def main() -> None:
    """Read the command line, run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pieces", type=int, default=1500, help="of each domain, to learn from")
    parser.add_argument("--held", type=int, default=60, help="of each domain, held out")
    parser.add_argument("--svg", type=Path)
    add_output(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    domains = {name: Path(folder) for name, _, folder in (item.partition("=") for item in options.domains)}
    train, valid = read_texts(domains, options.pieces, options.held)
    print({name: f"{len(train[name])} pieces, {len(valid[name])} held out" for name in domains})
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, tokenizer = folder / "pieces.jsonl", folder / "tokenizer"
        write_data(data, train)
        Tokenizer.train((text for pieces in train.values() for text in pieces), 1024).save(tokenizer)
        shown: dict[str, str] = {}
        stripes: dict[str, list[float]] = {}
        for seed in map(int, options.seeds.split(",")):
            for case in CASES:
                opened = trained(case, seed, options.steps, data, tokenizer, folder / f"{case}-{seed}")
                size = sum(weight.numel() for weight in opened.model.parameters())
                runs.append({"case": case, "seed": seed, "parameters": size, "found": measure(opened, valid)})
                print(json.dumps(runs[-1], ensure_ascii=False), flush=True)
                if case == "domain_adapter" and not shown:
                    shown = {told: continued(opened, told) for told in domains}
                    stripes = gains(opened, list(domains))
    print_results(runs, list(domains))
    print("\nhow `domain_adapter` goes on:", *(f"  {told}: {text}" for told, text in shown.items()), sep="\n")
    write_results(options, {"runs": runs, "goes_on": shown})
    if options.svg:
        title = "What each domain does to each of the 96 channels"
        across = "γ: 0 leaves a channel as it is"
        draw_stripes(options.svg, title, across, list(stripes), list(stripes.values()))


if __name__ == "__main__":
    main()
