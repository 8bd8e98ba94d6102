"""`luna serve`."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.cli.app import App
from luna_kernel.cli.options import command, device_option, option, plugins_option

import click  # isort: skip

t = catalogue(__package__)

_SHARE = 4
"""Matrices may be packed into this part of the memory that is free."""


@command(help=lambda: t("verb.serve"))
@option("--model", metavar="NAME", help=lambda: t("option.model"))
@option("--docs", multiple=True, files=True, type=click.Path(path_type=Path), help=lambda: t("option.docs"))
@option("--persona", metavar="NAME", help=lambda: t("option.persona"))
@option("--host", default="127.0.0.1", show_default=True, help=lambda: t("option.host"))
@option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help=lambda: t("option.port"))
@option("--api-key", help=lambda: t("option.api_key"))
@option("--cors", multiple=True, metavar="ORIGIN", help=lambda: t("option.cors"))
@option("--allow-host", multiple=True, metavar="NAME", help=lambda: t("option.allow_host"))
@option("--max-batch", type=click.IntRange(1, 1024), default=32, show_default=True, help=lambda: t("option.max_batch"))
@option(
    "--max-queue", type=click.IntRange(0, 100_000), default=128, show_default=True, help=lambda: t("option.max_queue")
)
@option("--timeout", type=click.FloatRange(1), default=600, show_default=True, help=lambda: t("option.timeout"))
@option("--max-body", type=click.IntRange(1024), default=4 << 20, show_default=True, help=lambda: t("option.max_body"))
@device_option
@plugins_option
@click.pass_context
def serve(ctx: click.Context, /, **given: Any) -> int:
    """Serve a model."""
    app = ctx.ensure_object(App)
    key = given["api_key"] or os.environ.get("LUNA_API_KEY") or None
    host = given["host"]
    local = host in ("127.0.0.1", "localhost", "::1")
    if not local and key is None:
        raise UsageError(t("host_without_key", host=host), hint=t("host_without_key.hint"))
    from luna_kernel.chat.generators import LunaGenerator
    from luna_kernel.cli.opening import open_for_good

    from .guard import Limits

    names = {"localhost", "127.0.0.1", "[::1]", *(name.lower() for name in given["allow_host"])}
    if not local:
        names |= {"*"} if host in ("0.0.0.0", "::") and not given["allow_host"] else {host.lower()}  # noqa: S104
    limits = Limits(frozenset(names), key, frozenset(given["cors"]), given["max_body"])
    session = open_for_good(app, _request(ctx, given))
    try:
        if not isinstance(session.generator, LunaGenerator):
            raise UsageError(t("luna_models_only"))
        return _serve(app, session, limits, given)
    finally:
        session.close()


def _request(ctx: click.Context, given: dict[str, Any]) -> Any:
    from luna_kernel.base.settings import Settings
    from luna_kernel.cli.chat_options import ChatRequest

    typed = {name: given[name] for name in ("model", "persona") if given[name] is not None}
    if ctx.get_parameter_source("device") is click.core.ParameterSource.COMMANDLINE:
        typed["device"] = given["device"]
    settings = Settings(**typed)
    settings.apply()
    docs = tuple(given["docs"]) or ((settings.docs,) if settings.docs is not None else ())
    return ChatRequest(settings, docs=docs, save=False)


def _serve(app: App, session: Any, limits: Any, given: dict[str, Any]) -> int:
    import socket

    import uvicorn

    from luna_kernel.base.machine import memory
    from luna_kernel.model.packed import pack

    from .app import Server
    from .engine import Engine
    from .handover import Handover
    from .service import Service

    model = session.generator.model
    pack(model, (memory()["available"] or 0) // _SHARE)
    handover = Handover()
    engine = Engine(
        model, session.generator.tokenizer, max_batch=given["max_batch"], max_queue=given["max_queue"],
        threads=session.generator.threads, after_step=handover.after_step,
    )  # fmt: skip
    try:
        server = Server(Service(session, engine, handover, timeout=given["timeout"]), limits)
        family = socket.AF_INET6 if ":" in given["host"] else socket.AF_INET
        # Named TCP, so that asyncio switches Nagle's algorithm off: else the first token waits 40 ms for an ACK.
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((given["host"], given["port"]))
            except OSError as error:
                fields = {"host": given["host"], "port": given["port"], "reason": reason_of(error)}
                raise UsageError(t("no_port", **fields), hint=t("no_port.hint")) from error
            listener.listen(1024)  # from here on nobody is refused: who reads the address may ask at once
            port = listener.getsockname()[1]
            shown = f"[{given['host']}]" if ":" in given["host"] else given["host"]
            app.say(t("serving", url=f"http://{shown}:{port}"))
            config = uvicorn.Config(
                server.app, log_level="warning", access_log=False, timeout_keep_alive=30, server_header=False,
                timeout_graceful_shutdown=5, limit_concurrency=1024,
            )  # fmt: skip
            gc.freeze()  # the server's own modules too; see `open_for_good`
            with contextlib.suppress(KeyboardInterrupt):  # as uvicorn ends by Ctrl-C, once all is closed
                uvicorn.Server(config).run(sockets=[listener])
    finally:
        engine.close()
    return 0
