"""From a request to an open session: check what was asked, choose the device, find the model, open the store."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from luna_kernel.base.device import choose_device
from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.base.threads import share_cores
from luna_kernel.chat.session import Session, SessionOptions, clean_query
from luna_kernel.chat.store import SessionStore
from luna_kernel.contracts.chat import Generator, Sampling

from .adapting import open_for_chat, plan_opening
from .app import App
from .chat_options import ChatRequest

if TYPE_CHECKING:
    from luna_kernel.base.device import DeviceChoice
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed")


def open_session(app: App, request: ChatRequest) -> Session:
    """Everything that a conversation needs, opened. What is wrong is said before anything slow begins.

    Raises:
        LunaError: see the parts: documents, persona, steps, device, model, store.
    """
    begin = time.perf_counter()
    share_cores()
    check_request(app, request)
    device = choose_device(request.settings.device)
    if request.settings.threads:
        import torch

        torch.set_num_threads(request.settings.threads)
    generator, plugins, name, chat = open_generator(app, request, device.name)
    options = SessionOptions(
        sampling=_sampling(request, chat),
        model=name,
        device=device.name,
        persona=request.settings.persona,
        docs=request.docs,
        show_thinking=request.thinking,
        educational=request.educational or request.show_tensors,
        show_tensors=request.show_tensors,
        context=request.context,
    )
    store = open_store(app, request)
    try:
        session = Session(plugins, generator, steps=_steps(app, request, chat, plugins), store=store, options=options)
    except BaseException:
        if store is not None:
            store.close()
        raise
    try:
        if request.session is not None and store is not None:
            _resume(app, session, request.session)
    except BaseException:
        session.close()
        raise
    for line in header(session, device, time.perf_counter() - begin):
        app.say(line)
    return session


def open_for_good(app: App, request: ChatRequest) -> Session:
    """`open_session` for a process that does nothing else: what is loaded now never counts as garbage.

    To look through all of it takes Python hundreds of milliseconds, in which no token comes and no Ctrl-C is heard.
    """
    session = open_session(app, request)
    gc.freeze()
    return session


def check_request(app: App, request: ChatRequest) -> None:
    """Refuse what cannot work before a model is built or opened.

    Raises:
        UsageError: an empty question, documents that are not there, a part that no plugin brings.
    """
    if request.query is not None:
        clean_query(request.query)
    for path in request.docs:
        if not path.exists():
            raise UsageError(t("run.docs.missing", path=path), hint=t("run.docs.hint"))
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise UsageError(t("run.docs.unreadable", path=path), hint=t("run.docs.hint"))
        if path.is_dir() and not any(item.is_file() for item in path.rglob("*")):
            raise UsageError(t("run.docs.empty", path=path), hint=t("run.docs.hint"))
    registry = app.plugins().registry
    if request.docs:
        registry.get("step", "rag", where="--docs")
    if request.settings.persona is not None:
        registry.get("step", "persona", where="--persona")
    if request.educational or request.show_tensors:
        registry.get("step", "educational", where="--educational" if request.educational else "--show-tensors")
    for name in request.steps or ():
        registry.get("step", name, where="--steps")
    if request.generator is not None:
        registry.get("generator", request.generator, where="--generator")


def open_generator(app: App, request: ChatRequest, device: str) -> tuple[Generator, Plugins, str, dict[str, Any]]:
    """Who answers: (generator, plugins that are on, name of the model, the manifest's `chat`)."""
    name = request.generator or "luna"
    model = request.settings.model
    if name != "luna":
        plugins = app.plugins()
        unused = {
            "cache_limit": request.settings.cache_limit is not None,
            "low_memory": bool(request.settings.low_memory),
            "experts_per_token": request.settings.experts_per_token is not None,
            "--adapt": request.adapt,
        }
        for setting in [key for key, wanted in unused.items() if wanted]:
            app.say(t("run.not_for_generator", setting=setting, generator=name))
        component = plugins.registry.get("generator", name)
        table = request.settings.plugins_config.get(component.plugin, {})
        given = {"config": component.make_config(table, where=f"plugin.{component.plugin}")} if component.config else {}
        generator = component.load().open(model, plugins=plugins, device=device, **given)
        return generator, plugins, model or generator.name, {}
    from luna_kernel.chat.generators import LunaGenerator
    from luna_kernel.chat.models import find_model

    if model is not None:
        folder, selection = find_model(model), app.selection
    else:
        from luna_kernel.chat.demo import demo_model

        folder = demo_model(app.plugins(), say=app.say, seconds=request.train_seconds, rebuild=request.rebuild)
        model, selection = "demo", str(app.plugins().selection)
    opening = plan_opening(app, request.settings, folder, device, adapt=request.adapt)
    opened = open_for_chat(app, folder, opening, selection=selection, device=device)
    generator = LunaGenerator(opened)
    if not request.settings.threads:  # else the user has decided
        generator.choose_threads()
    chat = opened.manifest.chat
    return generator, opened.plugins, model, dict(chat)


def open_store(app: App, request: ChatRequest) -> SessionStore | None:
    """The store of conversations, or None with `--no-save`, or where the disk refuses, which is said."""
    if not request.save:
        return None
    try:
        return SessionStore()
    except LunaError as error:
        app.say(t("run.not_saved", reason=str(error)))
        return None


def _sampling(request: ChatRequest, chat: dict[str, Any]) -> Sampling:
    """The model's own sampling under the user's settings."""
    own = chat.get("sampling")
    fields = {key: own[key] for key in _SAMPLING if isinstance(own, dict) and key in own}
    fields |= {key: value for key in _SAMPLING if (value := getattr(request.settings, key)) is not None}
    return replace(Sampling(**fields), stop=request.stop)


def _steps(app: App, request: ChatRequest, chat: dict[str, Any], plugins: Plugins) -> list[Any] | None:
    """The steps that were asked for, or the model's own without those whose plugin is off, which is said;
    and the one that explains, where `--educational` wants it."""
    explains = [{"name": "educational"}] if request.educational or request.show_tensors else []
    own = chat.get("steps") if request.steps is None else list(request.steps)
    if not isinstance(own, list):
        return None
    nodes = [item if isinstance(item, dict) else {"name": item} for item in own]
    nodes += [node for node in explains if node["name"] not in [item.get("name") for item in nodes]]
    if request.steps is not None:
        return nodes
    missing = [str(node.get("name")) for node in nodes if not plugins.registry.find("step", str(node.get("name")))]
    if missing:
        app.say(t("run.steps_missing", names=", ".join(missing)))
    return [node for node in nodes if str(node.get("name")) not in missing]


def _resume(app: App, session: Session, name: str) -> None:
    """Go on with the conversation `name`, or begin it: its first turn gives it the name."""
    from luna_kernel.base.paths import is_safe_name

    try:
        count = session.load(name)
    except UsageError:
        if not is_safe_name(name):
            raise
        session.name_when_kept(name)
        app.say(t("run.session_new", name=name))
    else:
        app.say(t("run.session_resumed", name=name, count=count))


def header(session: Session, device: DeviceChoice, seconds: float) -> list[str]:
    """What is running, in one or two lines: model, plugins, device and why; what generator and steps have to say."""
    model = session.options.model
    parameters = getattr(session.generator, "num_parameters", None)
    if parameters:
        model += " " + t("header.parameters", millions=number_text(parameters / 1e6, 1))
    lines = [
        t(
            "header.line",
            model=model,
            plugins=", ".join(session.plugins.names) or "-",
            device=device.name,
            reason=device.reason,
            seconds=number_text(seconds, 1),
        )
    ]
    described = [session.generator, *(session.step(name) for name in session.step_names)]
    lines += [text for part in described if part is not None and (text := part.describe())]
    return lines
