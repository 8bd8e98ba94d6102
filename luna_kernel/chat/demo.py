"""The demo model: small, made on this machine from the bundled Portuguese corpus, so that chatting needs no download.

It is made of the layers of the plugins that are on, once, and kept in the cache under a key of everything that shapes
it: kernel, layers with their versions, corpus, recipe. It knows the corpus by heart and little else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel import __version__
from luna_kernel.base import durable, integrity, paths
from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.threads import idle_cores
from luna_kernel.model.blueprint import find_components, model_components
from luna_kernel.plugins.manifest import FILE, Manifest

from .models import DEMO

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)

RECIPE: dict[str, Any] = {
    "preset": "mini",
    "vocab_size": 4096,
    "optimizer": {"name": "muon", "weight_decay": 0.05, "beta2": 0.98, "iterations": 3},
    "schedule": {"name": "wsd", "warmup_steps": 10, "decay_share": 0.5},
    "learning_rate": 1.2e-2,
    "batch_size": 4,
    "sequence_length": 256,
    "max_steps": 300,
    "seed": 0,
}
"""Fields of the training configuration, tuned for about a minute on two AVX2 cores (docs/log.md)."""

USUAL_SECONDS = 70
"""What the training takes on two quiet AVX2 cores. It has no time limit: a model that knows half of it is of no use."""

CHAT: dict[str, Any] = {"sampling": {"temperature": 0.2, "min_p": 0.1, "repetition_penalty": 1.0}, "thinking": True}
"""The manifest's `chat`: a model that knows few answers by heart must not be made to improvise."""

_LOCK_SECONDS = 600.0


def corpus_files() -> list[str]:
    """The bundled dialogues, JSONL files in a fixed order."""
    folder = Path(str(resources.files("luna_kernel.data") / "demo"))
    return sorted(str(path) for path in folder.glob("*.jsonl"))


def demo_key(plugins: Plugins, seconds: float | None) -> str:
    """16 hexadecimal digits over everything that shapes the model."""
    registry = plugins.registry
    layers = [
        [c.kind, c.name, c.version, c.distribution, c.distribution_version, c.place, dict(c.default)]
        for name in model_components(plugins)
        for c in find_components(registry, name)
    ]
    corpus = [[Path(path).name, integrity.hash_file(path)] for path in corpus_files()]
    facts = [__version__, layers, corpus, RECIPE, CHAT, seconds]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def demo_model(
    plugins: Plugins,
    *,
    say: Callable[[str], None],
    seconds: float | None = None,
    rebuild: bool = False,
    device: str = "auto",
) -> Path:
    """The folder of the demo model for these plugins; made first if it is not there or damaged.

    Args:
        plugins: their layers go into the model.
        say: told what happens.
        seconds: of training at most; None for no limit. A model with another limit is another model.
        rebuild: make it anew.
        device: where to train.

    Raises:
        KeyboardInterrupt: the training was interrupted; nothing is left of it.
        StorageError: the cache folder cannot be written.
    """
    root = paths.cache_dir() / DEMO
    folder = root / demo_key(plugins, seconds)
    if not rebuild and _is_whole(folder, say):
        with contextlib.suppress(OSError):
            os.utime(folder)  # it was used last
        return folder
    durable.make_folder(root)
    with _waiting_lock(root / f"{folder.name}.lock", say):
        if not rebuild and _is_whole(folder, say):
            return folder  # another process has made it meanwhile
        begin = time.monotonic()
        layers = ", ".join(model_components(plugins)) or t("demo.plain")
        say(t("demo.building", layers=layers, seconds=round(seconds or USUAL_SECONDS)))
        _build(plugins, folder, seconds, device)
        say(t("demo.built", seconds=round(time.monotonic() - begin)))
    return folder


def _is_whole(folder: Path, say: Callable[[str], None]) -> bool:
    """Whether the model is there with every byte; a damaged one is said and made again."""
    if not (folder / FILE).is_file():
        return False
    try:
        integrity.check(folder, Manifest.read(folder).files)
    except (IntegrityError, UsageError) as error:
        say(t("demo.damaged", reason=error.text))
        return False
    return True


@contextlib.contextmanager
def _waiting_lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One process makes the model; another that wants the same waits, and says so."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(durable.lock(path))
        except UsageError:
            say(t("demo.waiting"))
            stack.enter_context(durable.lock(path, wait=_LOCK_SECONDS))
        yield


def _build(plugins: Plugins, folder: Path, seconds: float | None, device: str) -> None:
    """Train in a folder of its own and put the model in place, whole, with its `chat`."""
    from luna_kernel.train.config import NewModel, TrainConfig
    from luna_kernel.train.console import make_console
    from luna_kernel.train.training import train_model

    run = folder.with_name(folder.name + ".run")
    durable.remove_folder(run)  # of a build that was killed: a training by the clock cannot be resumed
    fields = {key: value for key, value in RECIPE.items() if key != "preset"}
    config = TrainConfig(
        run_dir=run,
        train_data=tuple(corpus_files()),
        valid_fraction=0,
        new_model=NewModel(preset=RECIPE["preset"], components=tuple(model_components(plugins))),
        max_seconds=seconds,
        valid_every=0,
        checkpoint_every=0,
        preflight=False,
        device=device,
        **fields,
    )
    try:
        with _own_cores():
            result = train_model(config, plugins=plugins, console=_Progress(make_console()))
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        _publish(result.model_dir, folder)
    finally:
        durable.remove_folder(run)


@contextlib.contextmanager
def _own_cores() -> Iterator[None]:
    """Compute on the cores that nobody else uses: with threads that wait for a busy core, so small a model takes ten
    times as long as with one thread."""
    import torch

    before, idle = torch.get_num_threads(), idle_cores()
    if idle is not None:
        torch.set_num_threads(max(1, min(before, round(idle))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _publish(made: Path, folder: Path) -> None:
    manifest = Manifest.read(made)
    with durable.replace_folder(folder, marker=FILE) as new:
        for name in manifest.files:
            durable.write_bytes(new / name, (made / name).read_bytes())
        dataclasses.replace(manifest, chat=CHAT).write(new)


class _Progress:
    """Only the progress of the training; its remarks are for people who train models of their own."""

    def __init__(self, console: Any) -> None:
        self.start_progress = console.start_progress
        self.progress = console.progress
        self.end_progress = console.end_progress

    def say(self, text: str) -> None:
        """Nothing."""
