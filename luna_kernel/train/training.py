"""`train_model`: from a configuration to a finished model folder, going on where an earlier start was interrupted."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luna_kernel import __version__
from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import UsageError
from luna_kernel.base.freed_memory import keep_freed_memory
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.training import Callback, Objective, Schedule
from luna_kernel.data.batches import Batches
from luna_kernel.data.conditions import ConditionSpace
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import open_model
from luna_kernel.model.checkpoint import save_model as write_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.linear import float32_by_onednn
from luna_kernel.plugins import Plugins, load_plugins
from luna_kernel.plugins.manifest import FILE as MANIFEST_FILE
from luna_kernel.plugins.manifest import Manifest
from luna_kernel.train import adapting, growth, run_state
from luna_kernel.train.callbacks import ConsoleProgress, EarlyStopping, JsonlTracker
from luna_kernel.train.conditions import condition_space
from luna_kernel.train.config import Node, TrainConfig
from luna_kernel.train.console import Console, QuietConsole
from luna_kernel.train.corpus import Corpus, Stores, make_stores
from luna_kernel.train.engine import Engine
from luna_kernel.train.loop import TrainRun, train
from luna_kernel.train.optimizers import make_optimizers
from luna_kernel.train.preflight import preflight

t = catalogue(__package__)

RUN_FILE = "run.json"
FORMAT = 1
DEFAULT_SEQUENCE = 256
FREE = frozenset(
    {
        "run_dir",
        "save_to",
        "skip_bad",
        "max_steps",
        "epochs",
        "max_seconds",
        "device",
        "compile",
        "activation_checkpointing",
        "threads",
        "log_every",
    }
    | {"valid_every", "valid_samples", "patience", "checkpoint_every", "keep_last", "max_bad_steps", "preflight"}
    | {"callbacks", "trackers", "model", "train_data", "valid_data", "tokenizer"}
)
"""Fields that may change between the starts of one run; the data are compared by content, not by name."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run_dir: Path
    model_dir: Path
    """The finished model: the best one measured, or the last."""
    reason: str
    """`finished`, `no_better`, `interrupted`, or what a plugin said."""
    steps: int
    tokens: int
    seconds: float
    skipped_steps: int
    resumed_from: int | None
    """The step that it went on from."""
    best_step: int | None
    metrics: dict[str, float]
    """Of the last step and the last measurement."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {**vars(self), "run_dir": str(self.run_dir), "model_dir": str(self.model_dir), "ok": True}


def train_model(config: TrainConfig, *, plugins: Plugins, console: Console | None = None) -> TrainResult:
    """Train a model, new or opened, and save it.

    Args:
        config: everything about the run.
        plugins: those that are on; a model's own are added when it is opened.
        console: where remarks and progress go; None: nowhere.

    Raises:
        UsageError: bad data, configuration or names; another trainer is at work in the folder; the run there is of
            other
            data or another configuration.
        LunaError: the loss stayed not finite, or the disk refused. Checkpoints are whole.
    """
    console = console or QuietConsole()
    if config.threads:
        torch.set_num_threads(config.threads)
    with durable.lock(config.run_dir / "lock"), keep_freed_memory(), float32_by_onednn():
        return _Training(config, plugins, console).go()


class _Training:
    """The steps of `train_model`, in order."""

    def __init__(self, config: TrainConfig, plugins: Plugins, console: Console) -> None:
        self.config, self.plugins, self.console = config, plugins, console
        self.folder = config.run_dir
        self.engine = Engine.choose(config.device, config.precision)
        self.earlier: dict[str, Any] | None = None
        self.stores: Stores
        self.space = ConditionSpace()

    def go(self) -> TrainResult:
        config, say = self.config, self.console.say
        for line in self.engine.choice:
            say(line)
        for complaints in self.plugins.tell("luna_check_config", config=config.model_dump(mode="json")):
            if complaints:
                raise UsageError("\n".join(map(str, complaints)))
        self._read_run_file()
        if (
            self.earlier is None and config.model is None
        ):  # what is wrong with it is said before the tokenizer is trained
            self._plan(config.vocab_size).table(self.plugins.registry)
        objective: Objective = self._make("objective", config.objective)
        tokenizer, model = self._tokenizer_and_model(objective)
        run = self._run(objective, tokenizer, model)
        resumed = self._resume(run, tokenizer)
        objective.prepare(run)
        if resumed is None and config.preflight:
            found = preflight(
                run, DialogueTemplate(tokenizer), self.stores.train, self.stores.valid, fresh=config.model is None
            )
            for line in found.lines():
                say(line)
        reason = "finished" if run.progress >= 1.0 else train(run)
        return self._finish(run, tokenizer, reason, resumed)

    def _make(self, kind: str, node: Node) -> Any:
        component = self.plugins.registry.get(kind, node["name"], where=kind)
        return component.load()(component.make_config(node, where=kind))

    def _read_run_file(self) -> None:
        path = self.folder / RUN_FILE
        if path.is_file():
            self.earlier = integrity.read_json(path)
            before, now = self.earlier["config"], self.config.model_dump(mode="json")
            changed = sorted(key for key in now if key not in FREE and before.get(key) != now[key])
            if changed:
                changes = "\n".join(f"  {key}: {before.get(key)!r} → {now[key]!r}" for key in changed)
                raise UsageError(
                    t("run.other_config", folder=self.folder, changes=changes), hint=t("run.other_config.hint")
                )

    # --- tokenizer, data, model ---------------------------------------------------------------------------------------

    def _tokenizer_and_model(self, objective: Objective) -> tuple[Tokenizer, Decoder]:
        config = self.config
        train_data = Corpus.find(config.train_data, self.plugins.registry, skip_bad=config.skip_bad)
        valid_data = None
        if config.valid_data:
            valid_data = Corpus.find(config.valid_data, self.plugins.registry, skip_bad=config.skip_bad)
        model: Decoder | None = None
        tokenizer: Tokenizer | None = None
        names: Mapping[str, Iterable[str]] = {}
        if self.earlier is not None:
            tokenizer = Tokenizer.load(self.folder / "tokenizer")
            needs = tuple(self.earlier["needs"])
            names = self.earlier.get("conditions", {})
            if not set(needs) <= set(self.plugins.names):
                self.plugins = load_plugins(self.plugins.selection.with_named(needs))
        elif config.model is not None:
            opened = open_model(config.model, selection=self.plugins.selection)
            self.plugins, model, tokenizer = opened.plugins, opened.model, opened.tokenizer
            names = opened.manifest.conditions
        if tokenizer is None and config.tokenizer is not None:
            tokenizer = Tokenizer.load(config.tokenizer)
        if tokenizer is None:
            self.console.say(t("tokenizer.training", size=config.vocab_size))
            tokenizer = Tokenizer.train(train_data.texts(), config.vocab_size)
        if model is not None and tokenizer.vocab_size > model.dims.vocab_size:
            raise UsageError(t("tokenizer.too_large", tokenizer=tokenizer.vocab_size, model=model.dims.vocab_size))
        self.stores = make_stores(
            train_data,
            valid_data,
            tokenizer,
            objective,
            config.objective,
            valid_fraction=config.valid_fraction,
            seed=config.seed,
            say=self.console.say,
        )
        if model is None:
            model = self._new_model(tokenizer)
        known = {**model.condition_names, **names}
        self.space = condition_space(model.conditions, known, self.stores, self.console.say)
        return tokenizer, model

    def _new_model(self, tokenizer: Tokenizer) -> Decoder:
        if self.earlier is not None:
            blueprint = Blueprint.from_json(self.earlier["blueprint"])
        else:
            blueprint = self._plan(tokenizer.vocab_size)
        torch.manual_seed(self.config.seed)
        return Decoder(blueprint, self.plugins.registry)

    def _plan(self, vocab_size: int) -> Blueprint:
        new = self.config.new_model
        return Blueprint.from_preset(
            new.preset,
            self.plugins.registry,
            vocab_size=vocab_size,
            components=new.components,
            place=new.place,
            configs=new.configs,
            dims=new.dims,
        )

    # --- the run ------------------------------------------------------------------------------------------------------

    def _run(self, objective: Objective, tokenizer: Tokenizer, model: Decoder) -> TrainRun:
        config = self.config
        random.seed(config.seed)
        np.random.seed(config.seed % (1 << 32))
        torch.manual_seed(config.seed)
        model.to(self.engine.device)
        model.recompute_every = config.recompute_every
        if config.compile:
            model.compile_blocks()
        if config.adapter is not None:
            layers, trained = adapting.adapt(model, config.adapter, self.plugins.registry)
            frozen = sum(weight.numel() for weight in model.parameters()) - trained
            counts = {"layers": layers, "trained": trained, "total": frozen}
            self.console.say(t("adapter.begun", name=config.adapter["name"], **counts))
        length = config.sequence_length or min(DEFAULT_SEQUENCE, model.dims.max_positions)
        limit = model.dims.max_positions * objective.sequences_per_sample
        if length > limit:
            raise UsageError(t("run.too_long", length=length, limit=limit))
        schedule: Schedule = self._make("schedule", config.schedule)
        rows = config.batch_size * config.accumulate
        options: dict[str, Any] = {"seed": config.seed, "pad_id": tokenizer.pad_id, "space": self.space}
        valid = self.stores.valid
        extra: list[Callback] = [self._make("callback", node) for node in config.callbacks]
        extra += [self._make("tracker", node) for node in config.trackers]
        stopping: list[Callback] = [EarlyStopping(config.patience)] if config.patience else []
        lengths = [*tokenizer.byte_lengths(), *[0] * (model.dims.vocab_size - tokenizer.vocab_size)]
        return TrainRun(
            config=config,
            folder=self.folder,
            model=model,
            objective=objective,
            optimizers=make_optimizers(model, config, self.plugins.registry),
            schedule=schedule,
            batches=Batches(self.stores.train, rows, length, **options),
            engine=self.engine,
            plugins=self.plugins,
            valid=None if valid is None else Batches(valid, config.batch_size, length, shuffle=False, **options),
            byte_lengths=np.asarray(lengths, dtype=np.int64),
            callbacks=[*extra, *stopping, JsonlTracker(), ConsoleProgress(self.console)],
        )

    def _resume(self, run: TrainRun, tokenizer: Tokenizer) -> int | None:
        """Go on from the newest whole checkpoint, or write down what this new run is made of."""
        valid = self.stores.valid
        stores = [self.stores.train.manifest["key"], None if valid is None else valid.manifest["key"]]
        if self.earlier is None:
            self._write_run_file(run, tokenizer, stores)
            return None
        if self.earlier["stores"] != stores:
            raise UsageError(t("run.other_data", folder=self.folder), hint=t("run.other_config.hint"))
        run_state.tidy(self.folder)
        checkpoint, remarks = run_state.newest_checkpoint(self.folder)
        for remark in remarks:
            self.console.say(remark)
        if checkpoint is None:
            if self.config.model is not None:
                self._reload_start(run)
            return None
        for name, now in (("torch", torch.__version__), ("threads", torch.get_num_threads())):
            if checkpoint.state[name] != now:
                self.console.say(t("run.other_machine", what=name, before=checkpoint.state[name], now=now))
        run.restore(checkpoint)
        self.console.say(t("run.resumed", step=run.step, folder=self.folder))
        return run.step

    def _reload_start(self, run: TrainRun) -> None:
        """A run that died before its first checkpoint starts from the model that it was given."""
        assert self.config.model is not None
        opened = open_model(self.config.model, selection=self.plugins.selection)
        assert isinstance(run.model, Decoder)
        run.model.load_state_dict(adapting.weights_of_start(run.model, opened.model.state_dict()))

    def _write_run_file(self, run: TrainRun, tokenizer: Tokenizer, stores: list[Any]) -> None:
        assert isinstance(run.model, Decoder)
        content = {
            "format": FORMAT,
            "kernel": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "plugins": str(self.plugins.selection),
            "needs": sorted({part.component.plugin for part in run.model.parts} - {"kernel"}),
            "config": self.config.model_dump(mode="json"),
            "blueprint": run.model.resolved_blueprint.to_json(),
            "stores": stores,
            **({"conditions": dict(self.space.names)} if self.space.names else {}),
        }
        tokenizer.save(self.folder / "tokenizer")
        durable.write_json(self.folder / RUN_FILE, content)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _chat(self, thinking_id: int) -> dict[str, Any]:
        """What the model that training started from says about chatting with it; the new one says the same, and that
        it can think if it was shown how."""
        start = self.config.model
        chat = {} if start is None or not (start / MANIFEST_FILE).is_file() else Manifest.read(start).chat
        return {**chat, "thinking": True} if self.stores.train.holds(thinking_id) else chat

    def _finish(self, run: TrainRun, tokenizer: Tokenizer, reason: str, resumed: int | None) -> TrainResult:
        """Save the best model measured, or the last, as a model folder."""
        best = run.best.step
        if best is not None and best != run.step:
            folder = run_state.checkpoint_folder(self.folder, best)
            with contextlib.suppress(UsageError):
                checkpoint = run_state.load_checkpoint(folder)
                growth.restore(run, checkpoint)
                run.model.load_state_dict(checkpoint.model)
        assert isinstance(run.model, Decoder)
        if self.config.adapter is not None:
            adapting.merge(run.model)
        target = self.config.save_to or self.folder / "model"
        facts = {
            "objective": self.config.objective["name"],
            "steps": run.step,
            "tokens": run.tokens,
            "seconds": round(run.elapsed, 3),
            "best_step": best,
            "reason": reason,
            "metrics": {k: v for k, v in run.metrics.items() if k.startswith(("valid/", "loss/")) and v == v},
        }
        if run.growths:
            facts["growths"] = [growth.to_json() for growth in run.growths]
        extra = {
            "chat": self._chat(DialogueTemplate(tokenizer).thinking_id),
            "training": facts,
            "conditions": self.space.names,
        }
        write_model(target, run.model, plugins=self.plugins, tokenizer=tokenizer, extra=extra)
        self.console.say(t("run.done", reason=t(f"reason.{reason}") if reason in REASONS else reason, folder=target))
        return TrainResult(
            run_dir=self.folder,
            model_dir=target,
            reason=reason,
            steps=run.step,
            tokens=run.tokens,
            seconds=run.elapsed,
            skipped_steps=run.skipped,
            resumed_from=resumed,
            best_step=best,
            metrics=dict(run.metrics),
        )


REASONS = ("finished", "no_better", "interrupted")
