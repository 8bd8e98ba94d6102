"""The other side of `luna_kernel.base.worker`: sets its own bounds, then answers calls until its socket closes."""

from __future__ import annotations

import importlib
import json
import math
import resource
import signal
import socket
import struct
import sys
import traceback
from typing import Any

from luna_kernel.base import errors
from luna_kernel.base.errors import LunaError

_HEADER = struct.Struct(">Q")
_TEXT = 10_000


def main() -> None:
    """Read the bounds from the arguments and serve: descriptor, bytes of memory, open files, allowed functions."""
    descriptor, memory, open_files, allowed = sys.argv[1:5]
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    bound(int(memory), int(open_files))
    serve(connection, frozenset(allowed.split(",")))


def bound(memory: int, open_files: int) -> None:
    """Set what this process may use, for good: the hard limits cannot be raised again."""
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_FSIZE, 0),  # a write to a file fails; to a socket it does not
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            if limit == resource.RLIMIT_AS and sys.platform == "darwin":  # macOS does not bound address space
                continue
            raise
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def bound_time(seconds: float) -> None:
    """End the process by SIGXCPU once it has computed for `seconds` more, should the parent not do it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def serve(connection: socket.socket, allowed: frozenset[str]) -> None:
    """Answer calls, one after the other, until the parent closes the socket or dies."""
    send(connection, json.dumps({"ready": True}).encode())
    while (header := read(connection, _HEADER.size)) is not None:
        frame = read(connection, _HEADER.unpack(header)[0])
        if frame is None:
            return
        request = json.loads(frame.decode("utf-8", "surrogatepass"))
        bound_time(request["seconds"])
        send(connection, answer(request, allowed))


def read(connection: socket.socket, size: int) -> bytearray | None:
    """Exactly `size` bytes, or None at the end of the stream."""
    data = bytearray()
    while len(data) < size:
        block = connection.recv(min(size - len(data), 1 << 20))
        if not block:
            return None
        data += block
    return data


def send(connection: socket.socket, frame: bytes) -> None:
    """Send one frame with its length; the two apart, since joining would copy a large result."""
    header = _HEADER.pack(len(frame))
    if len(frame) < 1 << 16:
        connection.sendall(header + frame)
    else:
        connection.sendall(header)
        connection.sendall(frame)


def answer(request: dict[str, Any], allowed: frozenset[str]) -> bytes:
    """Run one request; the answer as JSON, whatever happens."""
    try:
        result = run(request["function"], request["arguments"], allowed)
    except MemoryError:
        return encode({"memory": True})  # no traceback: there may be no memory for it
    except SystemExit as error:
        return encode({"exit": describe(error.code), "traceback": trace()})
    except LunaError as error:
        return encode({"luna": known(error), "text": error.text, "hint": error.hint, "traceback": trace()})
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        return encode({"kind": type(error).__name__, "text": describe(error), "traceback": trace()})
    try:
        return encode({"result": result})
    except MemoryError:
        return encode({"memory": True})
    except (TypeError, ValueError, RecursionError) as error:
        return encode({"unfit": describe(error), "traceback": trace()})


def run(function: str, arguments: list[Any], allowed: frozenset[str]) -> Any:
    """Import the function on its first call, and call it."""
    if function not in allowed:
        raise PermissionError(function)
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def encode(value: object) -> bytes:
    """JSON in UTF-8; half surrogates, which parsers of PDF give, pass as they are."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def known(error: LunaError) -> str:
    """The name of the nearest class of `luna_kernel.base.errors` that the parent can raise again."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)


def describe(value: object) -> str:
    """The text of an exception or status; also of one whose own text fails."""
    try:
        return str(value)[:_TEXT]
    except Exception:  # noqa: BLE001 - the parser's class may do anything
        return type(value).__name__


def trace() -> str:
    """The traceback being handled, its last part if it is long."""
    try:
        return traceback.format_exc()[-_TEXT:]
    except Exception:  # noqa: BLE001 - as above
        return ""
