"""`luna create`: a new model from a preset and components, untrained, with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import command, json_option, option, plugins_option  # first: it binds click's texts

import click  # isort: skip

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.threads import share_cores

from .app import App

if TYPE_CHECKING:
    from luna_kernel.data.tokenizer import Tokenizer
    from luna_kernel.model.blueprint import Blueprint
    from luna_kernel.plugins import Registry

t = catalogue(__package__)


@command(help=lambda: t("create.help"))
@option("--name", required=True, metavar="NAME", help=lambda: t("create.name"))
@option("--preset", default="tiny", show_default=True, metavar="NAME", help=lambda: t("create.preset"))
@option("--place", multiple=True, metavar="NAME=PLACE", help=lambda: t("create.place"))
@option("--set", "fields", multiple=True, metavar="NAME.FIELD=VALUE", help=lambda: t("create.set"))
@option(
    "--vocab-size",
    type=click.IntRange(263, 1 << 20),
    default=8192,
    show_default=True,
    help=lambda: t("create.vocab_size"),
)
@option("--train-data", multiple=True, files=True, metavar="PATH", help=lambda: t("create.train_data"))
@option("--tokenizer", type=click.Path(path_type=Path), help=lambda: t("create.tokenizer"))
@option("--max-positions", type=click.IntRange(16), help=lambda: t("create.max_positions"))
@option("--seed", type=int, default=0, show_default=True, help=lambda: t("create.seed"))
@option("--replace", is_flag=True, help=lambda: t("create.replace"))
@plugins_option
@json_option
@click.pass_obj
def create(app: App, /, **given: Any) -> None:
    """See the catalogue: `create.help`."""
    share_cores()
    from luna_kernel.chat.models import model_path
    from luna_kernel.model.blueprint import Blueprint, model_components
    from luna_kernel.model.fields import parse_fields
    from luna_kernel.model.place import parse_overrides
    from luna_kernel.plugins.manifest import FILE

    folder = model_path(given["name"])
    if (folder / FILE).exists() and not given["replace"]:
        raise UsageError(t("create.exists", name=given["name"], folder=folder), hint=t("create.exists.hint"))
    if folder.exists() and not folder.is_dir():
        raise UsageError(t("create.not_a_folder", folder=folder))
    registry = app.plugins().registry
    places, fields = parse_overrides(given["place"]), parse_fields(given["fields"])
    dims = {} if given["max_positions"] is None else {"max_positions": given["max_positions"]}

    def plan(vocab_size: int) -> Blueprint:
        return Blueprint.from_preset(
            given["preset"], registry, vocab_size=vocab_size, components=model_components(app.plugins()), place=places,
            configs=fields, dims=dims,
        )  # fmt: skip

    plan(given["vocab_size"]).table(registry)  # what is wrong with it is said before the tokenizer is trained
    tokenizer = _tokenizer(app, registry, given)
    blueprint = plan(tokenizer.vocab_size)
    _save(app, blueprint, tokenizer, folder, given["seed"])


def _tokenizer(app: App, registry: Registry, given: dict[str, Any]) -> Tokenizer:
    """The tokenizer that was named, or one trained on the data, or on the bundled corpus."""
    from luna_kernel.data.tokenizer import Tokenizer

    if given["tokenizer"] is not None:
        return Tokenizer.load(given["tokenizer"])
    from luna_kernel.chat.demo import corpus_files
    from luna_kernel.train.corpus import Corpus

    paths = list(given["train_data"]) or corpus_files()
    if not given["train_data"]:
        app.say(t("create.bundled"))
    corpus = Corpus.find(paths, registry)
    return Tokenizer.train(corpus.texts(), given["vocab_size"])


def _save(app: App, blueprint: Blueprint, tokenizer: Tokenizer, folder: Path, seed: int) -> None:
    """Build, save, and print the table of blocks."""
    import torch

    from luna_kernel.model.checkpoint import save_model
    from luna_kernel.model.decoder import Decoder
    from luna_kernel.model.table import block_table

    registry = app.plugins().registry
    shown = block_table(blueprint, registry)
    torch.manual_seed(seed)
    save_model(folder, Decoder(blueprint, registry), plugins=app.plugins(), tokenizer=tokenizer)
    if app.json:
        app.emit({"name": folder.name, "folder": str(folder), **shown.to_json()})
        return
    app.write(shown.render())
    app.say(t("create.done", folder=folder, name=folder.name))
