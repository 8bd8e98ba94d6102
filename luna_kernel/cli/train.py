"""`luna train`: train a model by name, or a run from a configuration file; go on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (  # first: it binds click's texts
    CONFIG_SUFFIXES,
    command,
    device_option,
    json_option,
    option,
    plugins_option,
)

import click  # isort: skip

from luna_kernel.base import durable
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.threads import share_cores

from .app import App

if TYPE_CHECKING:
    from luna_kernel.train.config import TrainConfig

t = catalogue(__package__)

DONE_FILE = "done.json"
"""In the folder of a run that came to its end; what a later `luna train` of the same model does not go on with."""
_FIELDS = ("epochs", "max_steps", "max_seconds", "learning_rate", "batch_size")


@command(help=lambda: t("train.help"))
@click.argument("name", required=False)
@option("--model", metavar="NAME", help=lambda: t("train.model"))
@option("--train-data", multiple=True, files=True, metavar="PATH", help=lambda: t("train.train_data"))
@option("--valid-data", multiple=True, files=True, metavar="PATH", help=lambda: t("train.valid_data"))
@option("--epochs", type=click.FloatRange(0, min_open=True), help=lambda: t("train.epochs"))
@option("--max-steps", type=click.IntRange(1), help=lambda: t("train.steps"))
@option("--max-seconds", type=click.FloatRange(0, min_open=True), help=lambda: t("train.seconds"))
@option("--lightweight", is_flag=True, help=lambda: t("train.lightweight"))
@option("--learning-rate", type=click.FloatRange(0, min_open=True), help=lambda: t("train.learning_rate"))
@option("--batch-size", type=click.IntRange(1), help=lambda: t("train.batch_size"))
@option("--optimizer", metavar="NAME", help=lambda: t("train.optimizer"))
@option("--objective", metavar="NAME", help=lambda: t("train.objective"))
@option("--adapter", metavar="NAME|JSON", help=lambda: t("train.adapter"))
@option("--callback", multiple=True, metavar="NAME|JSON", help=lambda: t("train.callback"))
@option("--set", "fields", multiple=True, metavar="NAME.FIELD=VALUE", help=lambda: t("train.set"))
@option("--activation-checkpointing", metavar="none|blocks|N", help=lambda: t("train.checkpointing"))
@option("--run-dir", type=click.Path(path_type=Path), help=lambda: t("train.run_dir"))
@option("--skip-bad", is_flag=True, help=lambda: t("train.skip_bad"))
@option("--resume/--fresh", default=None, help=lambda: t("train.resume"))
@device_option
@plugins_option
@json_option
@click.pass_obj
def train(app: App, /, **given: Any) -> int:
    """See the catalogue: `train.help`."""
    share_cores()
    name = given["name"] or given["model"]
    if name is None:
        raise UsageError(t("train.nothing_named"), hint=t("train.nothing_named.hint"))
    if given["name"] and given["model"] and given["name"] != given["model"]:
        raise UsageError(t("chat.two_models", first=given["name"], second=given["model"]))
    config = _from_file(app, name, given) if name.endswith(CONFIG_SUFFIXES) else _from_name(app, name, given)
    if given["fields"]:
        config = _with_fields(config, given["fields"])
    if given["lightweight"]:
        config = config.lightened()
    _resume_or_fresh(config.run_dir, given["resume"])
    return _train(app, config)


def _overrides(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of `TrainConfig` that were typed."""
    fields = {key: given[key] for key in _FIELDS if given[key] is not None}
    fields |= {key: tuple(given[key]) for key in ("train_data", "valid_data") if given[key]}
    fields |= {key: {"name": given[key]} for key in ("optimizer", "objective") if given[key]}
    if given["adapter"]:
        fields["adapter"] = _node(given["adapter"])
    if given["callback"]:
        fields["callbacks"] = tuple(map(_node, given["callback"]))
    if given["activation_checkpointing"] is not None:
        chosen = given["activation_checkpointing"]
        fields["activation_checkpointing"] = int(chosen) if chosen.isdecimal() else chosen
    if given["run_dir"] is not None:
        fields["run_dir"] = given["run_dir"]
    if given["skip_bad"]:
        fields["skip_bad"] = True
    if given["device"] != "auto":
        fields["device"] = given["device"]
    return fields


def _node(text: str) -> dict[str, Any]:
    """A component as it is typed: its name, or a JSON object with `name` and fields."""
    if not text.lstrip().startswith("{"):
        return {"name": text}
    try:
        node: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise UsageError(t("train.bad_callback", text=text, reason=error), hint=t("train.bad_callback.hint")) from None
    return node


def _from_file(app: App, path: str, given: dict[str, Any]) -> TrainConfig:
    from luna_kernel.train.seed_config import load_config

    loaded = load_config(path, app.plugins().registry, _overrides(given))
    for remark in loaded.remarks:
        app.say(remark)
    return loaded.config


def _with_fields(config: TrainConfig, options: Iterable[str]) -> TrainConfig:
    """The same run with fields of the new model's layers set over the file's."""
    from luna_kernel.model.fields import join_fields, parse_fields

    fields = parse_fields(options)
    if config.model is not None:
        raise UsageError(t("train.set_old", model=config.model), hint=t("train.set_old.hint"))
    new = config.new_model.model_copy(update={"configs": join_fields(config.new_model.configs, fields)})
    return config.model_copy(update={"new_model": new})


def _from_name(app: App, name: str, given: dict[str, Any]) -> TrainConfig:
    """A model that is there is trained further and takes its own place when done."""
    from luna_kernel.base.paths import data_dir
    from luna_kernel.chat.models import find_model
    from luna_kernel.plugins.registry import validate
    from luna_kernel.train.config import TrainConfig

    folder = find_model(name)
    if not given["train_data"]:
        raise UsageError(t("train.no_data"), hint=t("train.no_data.hint"))
    fields = {"run_dir": data_dir() / "runs" / folder.resolve().name, "model": folder, "save_to": folder}
    config = validate(TrainConfig, {**fields, **_overrides(given)}, where="luna train")
    assert isinstance(config, TrainConfig)
    return config


def _resume_or_fresh(run: Path, resume: bool | None) -> None:
    """Without a flag an interrupted run goes on; a finished one makes room for the next."""
    from luna_kernel.train.training import RUN_FILE

    there = (run / RUN_FILE).is_file()
    if resume and not there:
        raise UsageError(t("train.no_run", folder=run), hint=t("train.no_run.hint"))
    finished = (run / DONE_FILE).is_file()
    if there and (resume is False or (resume is None and finished)):
        with durable.lock(run / "lock"):  # another trainer at work there is an error, not a victim
            durable.remove_folder(run)


def _train(app: App, config: TrainConfig) -> int:
    from luna_kernel.train.console import make_console
    from luna_kernel.train.training import train_model

    result = train_model(config, plugins=app.plugins(), console=make_console())
    interrupted = result.reason == "interrupted"
    if not interrupted:
        durable.write_json(config.run_dir / DONE_FILE, {"reason": result.reason, "steps": result.steps})
    if app.json:
        app.emit({**result.to_json(), "ok": not interrupted})
    elif interrupted:
        app.say(t("train.interrupted", step=result.steps))
    else:
        app.say(t("train.done", folder=result.model_dir, steps=result.steps, seconds=round(result.seconds)))
    return 130 if interrupted else 0
