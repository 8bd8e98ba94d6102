"""`luna refine`: a new model out of an old one and feedback."""

from __future__ import annotations

from typing import Any

from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.cli.app import App
from luna_kernel.cli.options import command, device_option, json_option, option, plugins_option

import click  # isort: skip

t = catalogue(__package__)


@command(help=lambda: t("verb.refine"))
@option("--model", metavar="NAME", required=True, help=lambda: t("option.model"))
@option("--output", metavar="NAME", help=lambda: t("option.output"))
@option(
    "--method",
    type=click.Choice(["auto", "dpo", "kto", "sft"]),
    default="auto",
    show_default=True,
    help=lambda: t("option.method"),
)
@option("--lightweight", is_flag=True, help=lambda: t("option.lightweight"))
@option("--any-model", is_flag=True, help=lambda: t("option.any_model"))
@option("--since", metavar="7d", help=lambda: t("option.since"))
@option("--replay", multiple=True, files=True, metavar="PATH", help=lambda: t("option.replay"))
@option("--epochs", type=click.FloatRange(0, min_open=True), help=lambda: t("option.epochs"))
@option("--learning-rate", type=click.FloatRange(0, min_open=True), help=lambda: t("option.learning_rate"))
@option("--beta", type=click.FloatRange(0, min_open=True), help=lambda: t("option.beta"))
@option("--batch-size", type=click.IntRange(1), help=lambda: t("option.batch_size"))
@option("--min-examples", type=click.IntRange(2), help=lambda: t("option.min_examples"))
@option("--redact/--no-redact", default=True, help=lambda: t("option.redact_refine"))
@device_option
@plugins_option
@json_option
@click.pass_obj
def refine(app: App, /, **given: Any) -> int:
    """See the catalogue: `verb.refine`."""
    from luna_kernel.base.threads import share_cores
    from luna_kernel.chat.models import find_model, model_path
    from luna_kernel.train.console import make_console

    from .analysis import since_time
    from .refining import Plan, about, free_output, replay_files
    from .refining import refine as make
    from .store import opened

    share_cores()
    model = find_model(given["model"])
    output = model_path(given["output"]) if given["output"] else free_output(model)
    begin = since_time(given["since"])
    with opened() as store:
        entries = store.entries(begin)
    if not given["any_model"]:
        every, entries = len(entries), about(entries, model, given["model"])
        if len(entries) < every:
            app.say(t("refine.other_models", count=every - len(entries), model=given["model"]))
    chosen = {key: given[key] for key in ("epochs", "learning_rate", "beta", "batch_size") if given[key] is not None}
    plan = Plan(
        model,
        output,
        given["method"],
        lightweight=given["lightweight"],
        adapter={"name": "lora"} if given["lightweight"] else None,
        device=given["device"],
        replay=replay_files(model, given["replay"], app.say),
        redact=given["redact"],
        least=given["min_examples"],
        **chosen,
    )
    report = make(plan, entries, plugins=app.plugins(), console=make_console())
    if app.json:
        app.emit({"ok": True, "folder": str(output), **report})
    else:
        app.write(show(report["comparison"]))
        if not has_moved(report["comparison"]):
            app.say(t("refine.little"))
        app.say(t("refine.done", folder=output))
    return 0


def has_moved(comparison: dict[str, Any]) -> bool:
    """Whether the examples kept aside have gained: a pair decided anew, a tenth of a nat, or a tenth of the bits."""
    before, after = comparison["before"], comparison["after"]
    gains = {"accuracy": 1e-9, "margin": 0.1}
    if any(before[key] is not None and after[key] - before[key] >= least for key, least in gains.items()):
        return True
    bits = "answers_bits_per_byte"
    return before[bits] is not None and after[bits] <= 0.9 * before[bits]


def show(comparison: dict[str, Any]) -> str:
    """The comparison as a table."""
    from luna_kernel.cli.tables import table

    keys = ["accuracy", "margin", "answers_bits_per_byte", "known_bits_per_byte"]
    rows = [
        [
            t(f"row.{key}"),
            *(
                "-" if comparison[name][key] is None else number_text(comparison[name][key], 3)
                for name in ("before", "after")
            ),
        ]
        for key in keys
        if comparison["before"][key] is not None
    ]
    head = [t("column.held_out", count=comparison["held_out"]), t("column.before"), t("column.after")]
    return table([head, *rows])
