"""Every hook that Luna calls. What a user names is a component, added by a `luna_add_*` hook; the others only tell.

An `add` hook gets a function to call once per component; it imports nothing:

    add(kind, name, "package.module:attribute", config="package.config:Config", version=1, help="one line", ...)

The "told" hooks run once per step or per turn, never inside a layer. When one fails, the failure is logged with the
plugin's name and the run goes on, unless the plugin says `LUNA_CRITICAL = True`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pluggy import HookspecMarker

if TYPE_CHECKING:
    from .registry import Add

hookspec = HookspecMarker("luna")

# --- hooks that add components -----------------------------------------------------------------------------------


@hookspec
def luna_add_layers(add: Add) -> None:
    """Layers. Kinds: mixer, ffn, position, adapter, modulator, grower."""


@hookspec
def luna_add_routers(add: Add) -> None:
    """Routers, which send tokens to experts. Kind: router."""


@hookspec
def luna_add_retrievers(add: Add) -> None:
    """Parts of search. Kinds: retriever, encoder, reranker, chunker, knowledge_store."""


@hookspec
def luna_add_personas(add: Add) -> None:
    """Ways of speaking. Kind: persona."""


@hookspec
def luna_add_callbacks(add: Add) -> None:
    """Observers of training with a state of their own. Kinds: callback, tracker."""


@hookspec
def luna_add_backends(add: Add) -> None:
    """Hardware and what makes weights smaller. Kinds: backend, quantizer, pruner."""


@hookspec
def luna_add_data(add: Add) -> None:
    """Data on its way in. Kinds: reader, normalizer, filter, augmenter, curriculum, dataset_format."""


@hookspec
def luna_add_training(add: Add) -> None:
    """Training. Kinds: objective, optimizer, schedule."""


@hookspec
def luna_add_evaluation(add: Add) -> None:
    """Measuring. Kinds: evaluator, judge, metric."""


@hookspec
def luna_add_export(add: Add) -> None:
    """Other formats. Kinds: exporter, importer."""


@hookspec
def luna_add_chat(add: Add) -> None:
    """Conversation. Kinds: step, command (`/name`), generator."""


@hookspec
def luna_add_models(add: Add) -> None:
    """Models that a plugin carries. Kind: model."""


@hookspec
def luna_add_commands(add: Add) -> None:
    """Verbs of the command line. Kind: verb; `help` is the line that `luna --help` shows without importing it."""


# --- hooks that tell ---------------------------------------------------------------------------------------------


@hookspec
def luna_train_start(run: Any) -> None:
    """Training begins or resumes; `run` is the `TrainRun`: config, model, position."""


@hookspec
def luna_train_stage_start(run: Any, stage: Any) -> None:
    """A stage of a curriculum begins; `stage` is its settings."""


@hookspec
def luna_train_step_end(run: Any, metrics: dict[str, float]) -> None:
    """An optimiser step is done; `metrics` holds what the log line will hold."""


@hookspec
def luna_train_eval_end(run: Any, metrics: dict[str, float]) -> None:
    """The held-out text was measured; `metrics` has `valid/bits_per_byte` and the rest."""


@hookspec(firstresult=True)
def luna_train_should_stop(run: Any) -> str | None:
    """Return a reason to end training after this step; the first reason counts."""


@hookspec
def luna_train_checkpoint_save(run: Any, state: dict[str, Any]) -> None:
    """A checkpoint is about to be written; put JSON-able state under your plugin's name in `state`."""


@hookspec
def luna_train_checkpoint_load(run: Any, state: dict[str, Any]) -> None:
    """A checkpoint was opened; `state` is what `luna_train_checkpoint_save` left."""


@hookspec
def luna_train_checkpoint_saved(run: Any, path: str) -> None:
    """A checkpoint is whole and on disk at `path`."""


@hookspec
def luna_train_end(run: Any, reason: str) -> None:
    """Training is over; `reason` says why."""


@hookspec
def luna_chat_start(session: Any) -> None:
    """A conversation is opened or resumed."""


@hookspec
def luna_chat_turn_end(session: Any, turn: Any) -> None:
    """An answer is complete and stored."""


@hookspec
def luna_chat_feedback(session: Any, turn: Any, feedback: dict[str, Any]) -> None:
    """A person judged an answer."""


@hookspec
def luna_chat_end(session: Any) -> None:
    """A conversation is closed."""


@hookspec
def luna_check_config(config: dict[str, Any]) -> list[str] | None:
    """Rules across components: return the complaints, one sentence each. Never change `config`."""


@hookspec
def luna_doctor() -> dict[str, Any] | None:
    """What the plugin sees on this machine, for `luna doctor`: a flat dictionary of facts and faults."""
