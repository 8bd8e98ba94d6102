"""Runs one scenario under the fault shim and prints what came of it as JSON; started by `test_every_operation.py`.

    LD_PRELOAD=shim.so python driver.py SHIM FOLDER SCENARIO [STRIDE]

SHIM is the path of the built `shim.c`, or `python` where there is no compiler: then functions of `os` are replaced.
With STRIDE a second fault hits the recovery from every STRIDE-th first one.

The n-th file operation of the scenario's `act` fails or kills, for n = 1, 2, 3 … until no fault fires, in each mode.
Each trial is a fork of this warm process. After it a reader recovers and looks: it must see the old or the new.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from luna_kernel.base import durable, folders, integrity
from luna_kernel.base.errors import StorageError

MODES = {
    "ENOSPC once": 1,
    "ENOSPC for ever": 2,
    "EIO once": 3,
    "EIO for ever": 4,
    "short write": 5,
    "kill before": 6,
    "kill half-way": 7,
    "kill after": 8,
}
ACKNOWLEDGED, REFUSED, FOREIGN = 0, 1, 2


class Scenario:
    """Old content by `prepare`, new content by `act`, and what a later process sees by `read`: old, new or why not."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        raise NotImplementedError

    def act(self) -> None:
        raise NotImplementedError

    def recover(self) -> None:
        durable.sweep(self.root)

    def read(self) -> str:
        raise NotImplementedError

    def orphans(self) -> list[str]:
        return [str(path) for path in self.root.rglob("*") if ".luna-" in path.name]


class File(Scenario):
    def content(self, which: str) -> dict[str, object]:
        return {"which": which, "padding": which * 5000}

    def prepare(self) -> None:
        durable.write_json(self.root / "a.json", self.content("old"))

    def act(self) -> None:
        durable.write_json(self.root / "a.json", self.content("new"))

    def read(self) -> str:
        found = json.loads((self.root / "a.json").read_text())
        return found["which"] if found == self.content(found["which"]) else "mixed"


class NaiveFile(File):
    """The negative control: this writer must be caught."""

    def act(self) -> None:
        with (self.root / "a.json").open("w") as file:
            json.dump(self.content("new"), file)


class LibraryFile(File):
    """A library that writes through a temporary name of its own, as safetensors does."""

    def act(self) -> None:
        def save(path: str) -> None:
            Path(path + ".part").write_text(json.dumps(self.content("new")))
            Path(path + ".part").rename(path)

        durable.write_with(self.root / "a.json", save)


class Folder(Scenario):
    def fill(self, which: str) -> None:
        with durable.replace_folder(self.root / "model") as new:
            durable.write_bytes(new / "weights.bin", which.encode() * 3000)
            durable.write_json(new / "tokenizer" / "vocab.json", {which: 1})
            durable.write_json(new / "luna.json", {"which": which, "files": integrity.seal(new)})

    def prepare(self) -> None:
        self.fill("old")

    def act(self) -> None:
        self.fill("new")

    def recover(self) -> None:
        durable.recover(self.root / "model", marker="luna.json")

    def read(self) -> str:
        model = self.root / "model"
        if not model.exists():
            return "absent"
        manifest = integrity.read_json(model / "luna.json")
        integrity.check(model, manifest["files"])
        return manifest["which"]


class FreshFolder(Folder):
    def prepare(self) -> None:
        pass

    def read(self) -> str:
        found = super().read()
        return "old" if found == "absent" else found


class FolderWithoutExchange(Folder):
    """Where the system cannot exchange two names in one step."""

    def act(self) -> None:
        folders._exchange = lambda one, other: False
        super().act()


class RemovedFolder(Folder):
    def act(self) -> None:
        durable.remove_folder(self.root / "model")

    def read(self) -> str:
        found = super().read()
        return "new" if found == "absent" else found


class Log(Scenario):
    def prepare(self) -> None:
        for number in range(3):
            durable.append_line(self.root / "log.jsonl", json.dumps({"step": number}))

    def act(self) -> None:
        durable.append_line(self.root / "log.jsonl", json.dumps({"step": 3, "padding": "x" * 5000}), durable=True)

    def recover(self) -> None:
        durable.repair_jsonl(self.root / "log.jsonl")

    def read(self) -> str:
        steps = [json.loads(line)["step"] for line in (self.root / "log.jsonl").open()]
        return {(0, 1, 2): "old", (0, 1, 2, 3): "new"}.get(tuple(steps), f"lines {steps}")


class Database(Scenario):
    def write(self, which: str, rows: int) -> None:
        connection = durable.open_database(self.root / "store.db")
        try:
            with durable.transaction(connection):
                connection.execute("CREATE TABLE IF NOT EXISTS store (id INTEGER PRIMARY KEY, text TEXT)")
                connection.execute("DELETE FROM store")
                connection.executemany("INSERT INTO store (text) VALUES (?)", [(which * 300,)] * rows)
        finally:
            connection.close()

    def prepare(self) -> None:
        self.write("old", 10)

    def act(self) -> None:
        self.write("new", 20)

    def read(self) -> str:
        connection = durable.open_database(self.root / "store.db")
        try:
            texts = [text[:3] for (text,) in connection.execute("SELECT text FROM store")]
        finally:
            connection.close()
        return {("old",) * 10: "old", ("new",) * 20: "new"}.get(tuple(texts), f"rows {texts}")


SCENARIOS: dict[str, type[Scenario]] = {
    kind.__name__: kind
    for kind in (
        File,
        NaiveFile,
        LibraryFile,
        Folder,
        FreshFolder,
        FolderWithoutExchange,
        RemovedFolder,
        Log,
        Database,
    )
}


class Shim:
    """The shim's functions; it is in this process by LD_PRELOAD already."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self.arm_bytes = library.luna_fault_arm
        self.arm_bytes.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long]
        self.fired = library.luna_fault_fired
        self.fired.restype = ctypes.c_long
        self.name = library.luna_fault_name
        self.name.restype = ctypes.c_char_p

    def arm(self, root: Path, mode: int, number: int) -> None:
        self.arm_bytes(os.fsencode(root), mode, number)


class PythonShim:
    """The same faults in functions of `os`; it sees neither C libraries nor buffered writes."""

    FUNCTIONS = (
        "open",
        "write",
        "fsync",
        "fchmod",
        "ftruncate",
        "mkdir",
        "chmod",
        "unlink",
        "rmdir",
        "rename",
        "replace",
    )

    def __init__(self) -> None:
        self.mode, self.target, self.count, self.hits, self.at = 0, 0, 0, 0, ""
        for name in self.FUNCTIONS:
            setattr(os, name, self.wrap(name, getattr(os, name)))

    def arm(self, root: Path, mode: int, number: int) -> None:
        self.mode, self.target, self.count, self.hits, self.at = mode, number, 0, 0, ""

    def fired(self) -> int:
        return self.hits

    def name(self) -> bytes:
        return self.at.encode()

    def wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def replaced(*arguments: object, **more: object) -> object:
            if not self.mode:
                return real(*arguments, **more)
            self.count += 1
            ever = self.mode in (2, 4) and self.count > self.target
            if self.count != self.target and not ever:
                return real(*arguments, **more)
            self.hits, self.at = self.hits + 1, self.at or name
            if self.mode <= 4:
                code = errno.ENOSPC if self.mode <= 2 else errno.EIO
                raise OSError(code, os.strerror(code))
            if self.mode in (6, 7):
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **more)
            if self.mode == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return replaced


def trial(
    shim: Shim | PythonShim, root: Path, work: Callable[[], None], mode: int, number: int
) -> tuple[int, bool, str]:
    """Run `work` in a fork under one fault. Returns (how it ended, whether the fault fired, what it was or said)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status, said = ACKNOWLEDGED, ""
        shim.arm(root, mode, number)
        try:
            work()
        except StorageError as error:
            status, said = REFUSED, error.text
        except BaseException:
            status, said = FOREIGN, traceback.format_exc()
        fired, name = shim.fired(), shim.name().decode()
        shim.arm(root, 0, 0)
        os.write(writing, json.dumps([fired, f"{name}: {said}"]).encode()[:60000])
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status), True, "killed"
    fired, said = json.loads(answer)
    return os.WEXITSTATUS(status), bool(fired), said


def prepared(kind: type[Scenario], template: Path, root: Path) -> Scenario:
    """A scenario with its old content, copied from the first one's."""
    if not template.exists():
        template.mkdir(parents=True)
        kind(template).prepare()
    shutil.copytree(template, root)
    return kind(root)


def judge(scenario: Scenario, ended: int, said: str) -> str | None:
    """What is wrong after a trial, or None."""
    if ended == FOREIGN:
        return f"another exception than StorageError: {said}"
    try:
        scenario.recover()
        seen = scenario.read()
    except BaseException as error:
        return f"the reader failed: {error!r}"
    if seen not in ("old", "new"):
        return f"the reader sees {seen}"
    if ended == ACKNOWLEDGED and seen != "new":
        return f"acknowledged, and the reader sees {seen}"
    if scenario.orphans():
        return f"orphans left: {scenario.orphans()}"
    return None


def every_operation(shim: Shim | PythonShim, folder: Path, kind: type[Scenario]) -> dict[str, object]:
    points, wrong, refused, seen_new = 0, [], 0, 0
    for name, mode in MODES.items():
        number = 0
        while True:
            number += 1
            scenario = prepared(kind, folder / "template", folder / f"{mode}-{number}")
            ended, fired, said = trial(shim, scenario.root, scenario.act, mode, number)
            reason = judge(scenario, ended, said)
            if reason:
                wrong.append(f"{name} at operation {number} ({said.partition(':')[0]}): {reason}")
            points += fired
            refused += ended == REFUSED
            with contextlib.suppress(Exception):
                seen_new += scenario.read() == "new"
            shutil.rmtree(scenario.root)
            if not fired:
                break
    return {"points": points, "refused": refused, "new": seen_new, "wrong": wrong}


def faults_in_recovery(shim: Shim | PythonShim, folder: Path, kind: type[Scenario], stride: int) -> dict[str, object]:
    """Killed at operation n, and then the recovery is killed, or refused by the disk, at operation m."""
    points, wrong, number = 0, [], 1 - stride
    fired = True
    while fired:
        number += stride
        second, again = 0, True
        while again:
            second += 1
            scenario = prepared(kind, folder / "template", folder / f"{number}-{second}")
            ended, fired, _ = trial(shim, scenario.root, scenario.act, MODES["kill before"], number)
            mode = MODES["kill after"] if second % 2 else MODES["EIO once"]
            second_end, again, said = trial(shim, scenario.root, scenario.recover, mode, second)
            reason = judge(scenario, ended if second_end != FOREIGN else FOREIGN, said)
            if reason:
                wrong.append(f"killed at {number}, recovery at {second}: {reason}")
            points += again
            shutil.rmtree(scenario.root)
    return {"points": points, "wrong": wrong}


def main() -> None:
    shim_path, place, chosen = sys.argv[1:4]
    shim = PythonShim() if shim_path == "python" else Shim(shim_path)
    if sys.argv[4:]:
        outcome = faults_in_recovery(shim, Path(place), SCENARIOS[chosen], int(sys.argv[4]))
    else:
        outcome = every_operation(shim, Path(place), SCENARIOS[chosen])
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
