"""The one worker for untrusted parsers: a process of its own, with bounds on memory, time and what it may write.

A damaged or hostile file can make a parser eat all memory, never end, or crash. In the worker that costs one
`WorkerError`; the next call starts a fresh process. The worker keeps a program from falling, it is no jail: its code
runs with the user's rights, apart from the bounds.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from luna_kernel.base import errors
from luna_kernel.base.errors import LunaError, UsageError, WorkerError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import size_text

t = catalogue(__package__)

_HEADER = struct.Struct(">Q")
_START_SECONDS = 60.0
# `-c` and not `-m`: the parent's import path, set before anything is imported, is the whole path; a `json.py` in the
# current folder is not picked up.
_START = (
    "import sys; sys.path[:] = sys.argv[5:]; del sys.argv[5:]; from luna_kernel.base.worker_main import main; main()"
)


class RemoteTraceback(Exception):  # noqa: N818 - as in the standard library: it is no error of its own
    """The traceback inside the worker, as text; the cause of the error that the parent raises."""


class ParserWorker:
    """Calls functions in a bounded process; start is at the first call, end at `close` or the end of `with`.

    Args:
        allowed: the functions that may be called, `"package.module:function"`.
        memory: bytes of address space of the process, the interpreter and its libraries included.
        max_result: bytes of one result as JSON; a larger one is refused.
        max_open_files: how many descriptors it may have open.

    One call runs at a time; threads wait for each other.
    """

    def __init__(
        self,
        *,
        allowed: Iterable[str],
        memory: int = 1 << 30,
        max_result: int = 256_000_000,
        max_open_files: int = 128,
    ) -> None:
        self.allowed = frozenset(allowed)
        for function in self.allowed:
            module, colon, name = function.partition(":")
            if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
                raise ValueError(f"not 'package.module:function': {function!r}")
        self.memory = memory
        self.max_result = max_result
        self.max_open_files = max_open_files
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> ParserWorker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def call(self, function: str, /, *arguments: Any, seconds: float = 60.0) -> Any:
        """Run an allowed function in the worker.

        Args:
            function: `"package.module:function"`, one of `allowed`.
            arguments: what JSON can carry.
            seconds: bound on the time of the call; the start of the process is not counted.

        Returns:
            The function's result after a round trip through JSON (tuples become lists).

        Raises:
            WorkerError: it ran over a bound, died, or raised; its traceback text is the cause.
            LunaError: the function raised one of Luna's errors; the same class, text and hint.
            UsageError: the function is not allowed.
        """
        if function not in self.allowed:
            raise UsageError(t("worker.unknown", function=function))
        request = _encode({"function": function, "arguments": arguments, "seconds": seconds})
        with self._lock:
            if self._socket is None:
                self._start()
            assert self._socket is not None
            try:
                self._send(request, time.monotonic() + seconds)
                answer = self._receive(time.monotonic() + seconds)
            except TimeoutError:
                self._stop()
                raise _time_error(function, seconds) from None
            except (ConnectionError, EOFError):
                raise self._death(function, seconds) from None
            except _TooBigError as error:
                self._stop()
                limit = size_text(self.max_result)
                raise _error("worker.too_big", function, size=size_text(error.size), limit=limit) from None
            except BaseException:
                self._stop()  # Ctrl-C: the answer still to come would be taken for the next call's
                raise
            if answer.get("memory"):
                self._stop()
        if "result" in answer:
            return answer["result"]
        raise self._failure(function, answer) from RemoteTraceback(answer.get("traceback", ""))

    def close(self) -> None:
        """End the process. A later call starts a new one."""
        with self._lock:
            self._stop()

    def _failure(self, function: str, answer: dict[str, Any]) -> LunaError:
        if answer.get("memory"):
            return _error("worker.memory", function, limit=size_text(self.memory))
        if "exit" in answer:
            return _error("worker.exit", function, status=answer["exit"])
        if "unfit" in answer:
            return _error("worker.result", function, reason=answer["unfit"])
        return _as_known(function, answer)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "MALLOC_ARENA_MAX": "1",  # each arena and each BLAS thread reserves address space
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        bounds = [str(theirs.fileno()), str(self.memory), str(self.max_open_files), ",".join(sorted(self.allowed))]
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                    [sys.executable, "-c", _START, *bounds, *sys.path],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C in the terminal is for the parent
                )
            self._socket = ours
            self._receive(time.monotonic() + _START_SECONDS)  # it says that it is ready
        except (OSError, EOFError, _TooBigError) as error:
            ours.close()
            status = self._stop(patience=1.0)
            reason = _ending(status) if isinstance(error, EOFError) else str(error)
            raise WorkerError(t("worker.start", reason=reason)) from error
        except BaseException:
            ours.close()
            self._stop()
            raise

    def _stop(self, *, patience: float = 0.0) -> int | None:
        """End the process and forget it. Returns its status if it ended by itself within `patience` seconds."""
        process, self._process = self._process, None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        status = process.returncode
        if status is None:
            process.kill()
            process.wait()
        return status

    def _death(self, function: str, seconds: float) -> WorkerError:
        status = self._stop(patience=1.0)
        if status == -signal.SIGXCPU:
            return _time_error(function, seconds)
        return _error("worker.died", function, reason=_ending(status))

    def _send(self, frame: bytes, deadline: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        self._socket.sendall(_HEADER.pack(len(frame)) + frame)

    def _receive(self, deadline: float) -> dict[str, Any]:
        (size,) = _HEADER.unpack(self._read(_HEADER.size, deadline))
        if size > self.max_result:
            raise _TooBigError(size)
        frame = self._read(size, deadline)
        try:
            answer = json.loads(str(frame, "utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            raise EOFError from None
        return answer if isinstance(answer, dict) else {}

    def _read(self, size: int, deadline: float) -> bytearray:
        """Exactly `size` bytes; grows as they come, so a lie about the size costs nothing."""
        assert self._socket is not None
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            block = self._socket.recv(min(size - len(data), 1 << 20))
            if not block:
                raise EOFError
            data += block
            if time.monotonic() > deadline:
                raise TimeoutError
        return data


class _TooBigError(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _error(key: str, function: str, **fields: object) -> WorkerError:
    return WorkerError(t(key, function=function, **fields), hint=t("worker.hint"))


def _time_error(function: str, seconds: float) -> WorkerError:
    return _error("worker.time", function, seconds=math.ceil(seconds * 10) / 10)


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return t("worker.signal", signal=signal.Signals(-status).name)
        return t("worker.signal", signal=-status)
    return t("worker.status", status="?" if status is None else status)


def _as_known(function: str, answer: dict[str, Any]) -> LunaError:
    kind = getattr(errors, str(answer.get("luna")), None)
    text, hint = str(answer.get("text", "")), answer.get("hint")
    if isinstance(kind, type) and issubclass(kind, LunaError):
        error = kind.__new__(kind)
        LunaError.__init__(error, text, hint=None if hint is None else str(hint))
        return error
    return _error("worker.raised", function, kind=answer.get("kind"), text=text)
