"""From feedback to a new model: examples, the one training loop, the comparison, a folder of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base import durable, integrity, paths
from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.models import DEMO, name_of
from luna_kernel.contracts.data import Message, Record
from luna_kernel.plugins.manifest import FILE, Manifest

from .comparison import Scored, compare, score
from .examples import METHODS, MIN_EACH, MIN_EXAMPLES, Example, choose_method, examples, shortage, split
from .privacy import redact_entry

if TYPE_CHECKING:
    from luna_kernel.model.checkpoint import OpenedModel
    from luna_kernel.plugins import Plugins
    from luna_kernel.train.config import TrainConfig
    from luna_kernel.train.console import Console

    from .entry import Entry

t = catalogue(__package__)

HELD_OUT = 0.2
"""Share of the prompts that no training sees."""
KNOWN = 100
"""Dialogues that are repeated at most to be measured, never trained on."""
SFT_WEIGHT = 1.0
"""Weight of the better answer's own loss beside DPO's (Pang et al. 2024, arXiv:2404.19733)."""
PLAN_FILE = "plan.json"
"""In the run's folder: what it was asked for, to tell whether an interrupted run goes on."""
REPLAY_LIMIT = 5000
"""Dialogues that are repeated at most."""


@dataclass(frozen=True)
class Plan:
    """What `luna refine` was asked for."""

    model: Path
    output: Path
    method: str = "auto"
    lightweight: bool = False
    """Fewer rows at once."""
    adapter: dict[str, Any] | None = None
    """What is trained instead of all weights; see `TrainConfig.adapter`."""
    callbacks: tuple[dict[str, Any], ...] = ()
    """Further callbacks of the training."""
    device: str = "auto"
    epochs: float = 3.0
    learning_rate: float | None = None
    """None: `usual_rate` of the model's size."""
    beta: float = 0.1
    batch_size: int = 4
    replay: tuple[str, ...] = ()
    """Files of dialogues that the model shall not forget."""
    replay_every: int = 2
    """Steps between two repetitions: with one at each step the old answers win over the feedback, without any the model
    forgets (`benchmarks/refine.py`)."""
    redact: bool = True
    least: int | None = None
    """Examples that are enough; None: `MIN_EXAMPLES`."""
    seed: int = 0


@dataclass(frozen=True)
class Material:
    """What is trained on and what is measured on."""

    method: str
    train: list[Example]
    held_out: list[Example]
    measured: list[Example]
    """Of the held-out prompts: pairs, whatever the method, where there are any; else `held_out`."""
    replay: list[Record]
    known: list[Record]

    @property
    def paired(self) -> bool:
        """Whether what is measured is pairs."""
        return any("chosen" in item.content for item in self.measured)


def prepare(plan: Plan, entries: Sequence[Entry], plugins: Plugins) -> Material:
    """Choose the method, make and split the examples, read what shall not be forgotten.

    Raises:
        UsageError: there is too little feedback; says how much each method lacks.
    """
    if plan.redact:
        entries = [redact_entry(entry)[0] for entry in entries]
    found = {name: examples(entries, name) for name in METHODS}
    lacks = {name: shortage(found[name], name, plan.least) for name in METHODS}
    method = choose_method(lacks) if plan.method == "auto" else plan.method
    if method is None or lacks[method]:
        tried = METHODS if plan.method == "auto" else (plan.method,)
        lines = [
            t(f"few.{name}", found=len(found[name]), needed=plan.least or MIN_EXAMPLES[name], each=MIN_EACH)
            for name in tried
        ]
        text = "\n".join([t("few.text", entries=len(entries)), *lines])
        raise UsageError(text, hint=t("few.hint", missing=min(lacks[name] for name in tried)))
    train, held_out = split(found[method], HELD_OUT, plan.seed)
    questions = {item.prompt[-1][1] for name in METHODS for item in found[name]}
    replay = _dialogues(plan.replay, plugins, questions)
    every = max(5, len(replay) // KNOWN)
    known = replay[::every][:KNOWN]
    kept = [record for index, record in enumerate(replay) if index % every or index // every >= KNOWN]
    out = {item.prompt for item in held_out}
    measured = [item for item in found["dpo"] if item.prompt in out] or held_out
    return Material(method, train, held_out, measured, kept[:REPLAY_LIMIT], known)


def _dialogues(names: tuple[str, ...], plugins: Plugins, judged: set[str]) -> list[Record]:
    """The dialogues of the files without those that have a judged question: to repeat the old answer to it would undo
    what is to be learnt."""
    from luna_kernel.train.corpus import Corpus

    if not names:
        return []
    records = Corpus.find(names, plugins.registry).records()
    return [one for one in records if one.messages and not any(part.content in judged for part in one.messages)]


def write_data(material: Material, run: Path) -> dict[str, Path]:
    """The files of the run: `train`, `valid`, `replay`, those that have something in them."""
    written = {}
    for name, text in data_lines(material).items():
        written[name] = run / "data" / f"{name}.jsonl"
        durable.write_text(written[name], text, private=True)
    return written


def data_lines(material: Material) -> dict[str, str]:
    """What is in the files `train`, `valid` and `replay`; empty ones are left out."""
    lines = {
        "train": [item.to_line() for item in material.train],
        "valid": [item.to_line() for item in material.held_out],
        "replay": [_line(record) for record in material.replay],
    }
    return {name: "".join(content) for name, content in lines.items() if content}


def _line(record: Record) -> str:
    import json

    messages = [{"role": message.role, "content": message.content} for message in record.messages]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def training(
    plan: Plan, material: Material, files: dict[str, Path], run: Path, lengths: tuple[int, int]
) -> TrainConfig:
    """The configuration of the run.

    Args:
        plan: what was asked for.
        material: what is learnt.
        files: of `write_data`.
        run: the run's folder.
        lengths: tokens of a row, and of the longest prompt with one answer.
    """
    from luna_kernel.train.config import TrainConfig

    objective: dict[str, Any] = {"name": material.method}
    if material.method != "sft":
        objective |= {"beta": plan.beta, "max_tokens": lengths[1]}
    callbacks: list[dict[str, Any]] = list(plan.callbacks)
    if material.method == "dpo":  # without it the probability of both answers falls, in small models by much
        objective["sft_weight"] = SFT_WEIGHT
    if "replay" in files:
        data = [str(files["replay"])]
        callbacks.append({"name": "replay", "data": data, "every": plan.replay_every, "batch_size": plan.batch_size})
    fields = {
        "run_dir": run,
        "train_data": (str(files["train"]),),
        "valid_data": (str(files["valid"]),) if "valid" in files else (),
        "valid_fraction": 0,
        "model": plan.model,
        "objective": objective,
        "callbacks": tuple(callbacks),
        "adapter": plan.adapter,
        "schedule": {"name": "cosine"},
        "learning_rate": plan.learning_rate,
        "batch_size": plan.batch_size,
        "sequence_length": lengths[0],
        "epochs": plan.epochs,
        "device": plan.device,
        "precision": "fp32",  # differences of log-probabilities are small beside bf16's rounding
        "seed": plan.seed,
        "log_every": 1,
        "checkpoint_every": 50,
        "keep_last": 1,
        "preflight": False,
    }
    config = TrainConfig.model_validate(fields)
    return config.lightened() if plan.lightweight else config


def refine(
    plan: Plan, entries: Sequence[Entry], *, plugins: Plugins, console: Console, repeats: bool = True
) -> dict[str, Any]:
    """Make the new model; returns the report that its manifest keeps too.

    With `repeats` False the dialogues of `plan.replay` are measured on and not repeated.

    The old model is only read. The new folder appears whole, at the end.

    Raises:
        UsageError: too little feedback, or the output is there already.
        KeyboardInterrupt: the training was interrupted; no model was made, and the same call goes on from there.
    """
    from luna_kernel.model.checkpoint import open_model
    from luna_kernel.train.training import train_model

    if plan.output.exists():
        raise UsageError(t("refine.exists", folder=plan.output), hint=t("refine.exists.hint"))
    material = prepare(plan, entries, plugins)
    if not repeats:
        material = dataclasses.replace(material, replay=[])
    say = console.say
    counts = {"train": len(material.train), "held_out": len(material.held_out), "replay": len(material.replay)}
    say(t(f"refine.begin.{material.method}", **counts))
    if not material.replay:
        say(t("refine.no_replay"))
    opened = open_model(plan.model, selection=plugins.selection)
    rows = _row_lengths(opened, material)
    if plan.learning_rate is None:
        size = sum(weight.numel() for weight in opened.model.parameters())
        plan = dataclasses.replace(plan, learning_rate=usual_rate(size))
    say(t("refine.measuring"))
    before = score(opened, material.measured, material.known)
    del opened
    run = paths.data_dir() / "runs" / f"refine-{plan.output.resolve().name}"
    with durable.lock(run.with_name(run.name + ".lock")):
        begin = time.monotonic()
        files = _begin_or_go_on(plan, material, run, say)
        result = train_model(training(plan, material, files, run, rows), plugins=plugins, console=console)
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        say(t("refine.measuring"))
        after = score(open_model(result.model_dir, selection=plugins.selection), material.measured, material.known)
        report = _report(plan, material, before, after)
        report |= {"steps": result.steps, "seconds": round(time.monotonic() - begin, 2)}
        durable.write_json(run / "refine.json", report)
        _publish(result.model_dir, plan.output, report)
    return report


def _begin_or_go_on(plan: Plan, material: Material, run: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """The files of the run. A run that was cut off goes on if it was of the same model, examples and settings; else
    nothing of it is kept."""
    made = {name: hashlib.sha256(text.encode("utf-8")).hexdigest() for name, text in data_lines(material).items()}
    asked = {key: str(value) for key, value in dataclasses.asdict(plan).items() if key not in ("output", "device")}
    told = {"plan": asked, "data": made, "model": _weights(plan.model)}
    earlier = None
    with contextlib.suppress(LunaError):
        earlier = integrity.read_json(run / PLAN_FILE) if (run / PLAN_FILE).is_file() else None
    if earlier == told:
        say(t("refine.goes_on"))
        return {name: run / "data" / f"{name}.jsonl" for name in made}
    durable.remove_folder(run)
    files = write_data(material, run)
    durable.write_json(run / PLAN_FILE, told)
    return files


def _row_lengths(opened: OpenedModel, material: Material) -> tuple[int, int]:
    """(tokens of a row, tokens of a prompt with one answer): a row holds the longest example and no more, so that
    a step has about `batch_size` examples however short they are; neither is more than the model reads."""
    from luna_kernel.data.dialogue import DialogueTemplate

    assert opened.tokenizer is not None
    template, limit = DialogueTemplate(opened.tokenizer), int(opened.model.dims.max_positions)
    row = 16
    for example in [*material.train, *material.held_out]:
        answers = [example.content[key] for key in ("chosen", "rejected", "answer") if key in example.content]
        prompt = [Message(role, content) for role, content in example.prompt]  # type: ignore[arg-type]
        lengths = [min(limit, template.count([*prompt, Message("assistant", answer)])) for answer in answers]
        row = max(row, sum(lengths))
    return row, limit


def _report(plan: Plan, material: Material, before: Scored, after: Scored) -> dict[str, Any]:
    return {
        "method": material.method,
        "from": plan.model.resolve().name,
        "from_files": _weights(plan.model),
        "examples": {"train": len(material.train), "held_out": len(material.held_out)},
        "replay": len(material.replay),
        "lightweight": plan.lightweight,
        "adapter": plan.adapter,
        "beta": plan.beta,
        "learning_rate": plan.learning_rate,
        "comparison": compare(before, after, paired=material.paired),
    }


def _weights(model: Path) -> dict[str, Any]:
    """The hashes of a model's weights."""
    return {name: entry for name, entry in Manifest.read(model).files.items() if name.endswith(".safetensors")}


def _publish(made: Path, output: Path, report: dict[str, Any]) -> None:
    """Put the model into its own folder, with the report in its manifest, whole or not at all."""
    manifest = Manifest.read(made)
    integrity.check(made, manifest.files)
    facts = {**(manifest.training or {}), "refined": report}
    with durable.replace_folder(output, marker=FILE) as new:
        for name in manifest.files:
            durable.write_bytes(new / name, (made / name).read_bytes())
        dataclasses.replace(manifest, training=facts).write(new)


def usual_rate(parameters: int) -> float:
    """The learning rate for a model of that many weights: 3e-4 for a million or fewer, and less by the square root of
    the size: 3e-5 for a hundred million, 1e-5 for a billion, where the literature on DPO begins."""
    return float(f"{3e-4 * min(1.0, (1e6 / parameters) ** 0.5):.2g}")


def replay_files(model: Path, given: Sequence[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """What shall not be forgotten: the files that were given, else, of the demo model, what it was made from."""
    if given:
        return tuple(given)
    if name_of(model) == DEMO:
        from luna_kernel.chat.demo import corpus_files

        say(t("refine.replay_demo"))
        return tuple(corpus_files())
    return ()


def free_output(model: Path) -> Path:
    """`<model>-refined` in the models folder, with a number where that is taken."""
    base = name_of(model)[:50]
    names = [f"{base}-refined", *(f"{base}-refined-{number}" for number in range(2, 1000))]
    return next(paths.models_dir() / name for name in names if not (paths.models_dir() / name).exists())


def about(entries: Sequence[Entry], model: Path, given: str) -> list[Entry]:
    """The entries about answers of this model: those that name it as it was given, by its name, or not at all."""
    names = {"", given, name_of(model)}
    return [entry for entry in entries if entry.model in names or Path(entry.model).name in names]
