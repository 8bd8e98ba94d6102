"""The kernel's own components, registered by the same hooks that plugins use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1

VERBS = {
    "run": "luna_kernel.cli.run:run",
    "chat": "luna_kernel.cli.chat:chat",
    "sessions": "luna_kernel.cli.sessions:sessions",
    "create": "luna_kernel.cli.create:create",
    "train": "luna_kernel.cli.train:train",
    "models": "luna_kernel.cli.models:models",
    "config": "luna_kernel.cli.config:config",
    "plugins": "luna_kernel.cli.plugins_verb:plugins",
    "doctor": "luna_kernel.cli.doctor:doctor",
}
"""The kernel's verbs, in the order of the help page; their lines of help are in the catalogue of the command line."""


@hookimpl
def luna_add_layers(add: Add) -> None:
    """The Llama shape."""
    add(
        "mixer",
        "attention",
        "luna_kernel.model.attention:Attention",
        config="luna_kernel.model.attention_config:AttentionConfig",
        help="Grouped-query attention, optional QK-norm and sliding window",
    )
    add(
        "ffn",
        "swiglu",
        "luna_kernel.model.feed_forward:SwiGLU",
        config="luna_kernel.model.feed_forward_config:SwiGLUConfig",
        help="Gated feed-forward layer",
    )
    add(
        "position",
        "rope",
        "luna_kernel.model.rope:RotaryPosition",
        config="luna_kernel.model.rope_config:RotaryConfig",
        help="Rotary position embedding",
    )


@hookimpl
def luna_add_training(add: Add) -> None:
    """One loop's objectives, optimisers and schedules."""
    objectives = "luna_kernel.train.objectives"
    add("objective", "lm", f"{objectives}:LanguageModeling", help="Next token, every token counts")
    add("objective", "sft", f"{objectives}:SupervisedFineTuning", help="Next token, the assistant's turns count")
    optimizers = "luna_kernel.train.optimizers"
    configs = "luna_kernel.train.optimizer_config"
    add("optimizer", "adamw", f"{optimizers}:make_adamw", config=f"{configs}:AdamWConfig", help="AdamW, fused")
    add(
        "optimizer",
        "muon",
        f"{optimizers}:make_muon",
        config=f"{configs}:MuonConfig",
        help="Muon for matrices, AdamW for the rest",
    )
    schedules = "luna_kernel.train.schedules"
    for name, title, config, text in (
        ("wsd", "WarmupStableDecay", "WSDConfig", "Warm-up, stable, decay"),
        ("cosine", "WarmupCosine", "CosineConfig", "Warm-up, cosine"),
    ):
        add("schedule", name, f"{schedules}:{title}", config=f"{schedules}:{config}", help=text)


@hookimpl
def luna_add_data(add: Add) -> None:
    """Readers of the formats that need no library."""
    readers = "luna_kernel.data.readers"
    for name, extensions in (("text", ".txt"), ("markdown", ".md"), ("jsonl", ".jsonl"), ("csv", ".csv")):
        add("reader", name, f"{readers}:{name.title()}Reader", help=extensions)


@hookimpl
def luna_add_chat(add: Add) -> None:
    """Steps and generators of every conversation."""
    steps = "luna_kernel.chat.steps"
    add("step", "history", f"{steps}:HistoryStep", config=f"{steps}:HistoryConfig", help="Earlier turns that fit")
    add(
        "step",
        "generate",
        f"{steps}:GenerateStep",
        config=f"{steps}:GenerateConfig",
        help="Let the generator answer",
    )
    generators = "luna_kernel.chat.generators"
    add("generator", "luna", f"{generators}:LunaGenerator", help="A Luna model")
    add("generator", "extractive", f"{generators}:ExtractiveGenerator", help="Quotes the passages; needs no model")
    commands, of_answers = "luna_kernel.chat.commands", "luna_kernel.chat.answer_commands"
    for name, text in (
        ("regenerate", "Answer the last question anew"),
        ("edit", "Ask the last question in other words"),
        ("undo", "Take the last question back"),
        ("system", "Show or set the instruction given with every question"),
        ("set", "Show or set how words are drawn"),
        ("temp", "Show or set the temperature"),
        ("tokens", "Show or set the longest answer"),
        ("multi", "Write a question of several lines"),
    ):
        add("command", name, f"{of_answers}:{name.title()}Command", help=text)
    for name, text in (
        ("help", "Show the commands"),
        ("clear", "Begin a new conversation"),
        ("save", "Give this conversation a name"),
        ("load", "Go on with a conversation that has a name"),
        ("thinking", "Show or hide the thinking part"),
        ("stats", "Show figures of the last answer"),
        ("exit", "Leave"),
        ("quit", "Leave"),
    ):
        add("command", name, f"{commands}:{name.title()}Command", help=text)


@hookimpl
def luna_add_backends(add: Add) -> None:
    """The hardware that is always there."""
    add("backend", "cpu", "luna_kernel.model.cpu_backend:CpuBackend", help="The processor")


@hookimpl
def luna_add_commands(add: Add) -> None:
    """The kernel's verbs, so that a plugin that brings one of the same name is found out."""
    for name, target in VERBS.items():
        add("verb", name, target)
