from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luna_kernel.base.errors import IntegrityError, UsageError, WorkerError
from luna_kernel.base.worker import ParserWorker, RemoteTraceback

PARSER = """
    import os, sys, time
    from luna_kernel.base.errors import IntegrityError

    class Own(IntegrityError):
        def __init__(self, one, two): super().__init__(f"{one} {two}", hint="do this")

    class Rude(Exception):
        def __str__(self): raise RuntimeError

    def echo(*values): return list(values)
    def pid(): return os.getpid()
    def noise():
        print("to stdout"); os.write(1, b"raw"); os.write(2, b"err"); sys.stdout.flush()
        return sys.stdin.read()
    def bomb(): return len("x" * (8 << 30))
    def growing():
        kept = []
        while True: kept.append("x" * 10_000_000)
    def loop():
        while True: pass
    def sleep(): time.sleep(60)
    def leave(): sys.exit(0)
    def vanish(): os._exit(7)
    def crash(): os.abort()
    def text(size): return "ação\\n" * (size // 5)
    def fails(): raise KeyError("chave")
    def known(): raise Own("um", "dois")
    def rude(): raise Rude
    def unfit(): return {1, 2}
    def deep():
        value = []
        for _ in range(100_000): value = [value]
        return value
    def half(): return "\\ud800"
    def write(path):
        with open(path, "w") as file: file.write("x")
    def descriptors():
        opened = []
        try:
            while True: opened.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return len(opened)
    def interrupt(): raise KeyboardInterrupt
"""
FUNCTIONS = [line.split()[1].partition("(")[0] for line in PARSER.splitlines() if line.startswith("    def ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parsers")
    (folder / "some_parser.py").write_text(textwrap.dedent(PARSER))
    return folder


@pytest.fixture
def worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ParserWorker]:
    monkeypatch.syspath_prepend(folder)
    allowed = {f"some_parser:{name}" for name in FUNCTIONS} | {"no_such_module:f"}
    with ParserWorker(allowed=allowed) as worker:
        yield worker


def test_values_pass_both_ways(worker: ParserWorker) -> None:
    value = [1, 2.5, None, True, "ção\n\0", {"a": ["b"]}, "\ud800"]
    assert worker.call("some_parser:echo", *value) == value
    assert worker.call("some_parser:half") == "\ud800"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bomb", "more than 1.1 GB of memory"),
        ("loop", "more than 0.5 s"),
        ("sleep", "more than 0.5 s"),
        ("leave", r"tried to end the program \(status 0\)"),
        ("vanish", "exit status 7"),
        ("crash", "SIGABRT"),
        ("fails", "KeyError: 'chave'"),
        ("rude", "Rude: Rude"),
        ("unfit", "set is not JSON serializable"),
        ("deep", "recursion|circular|too many"),
        ("interrupt", "KeyboardInterrupt"),
    ],
)
def test_whatever_a_parser_does_it_is_an_error_with_a_reason(worker: ParserWorker, name: str, reason: str) -> None:
    worker.call("some_parser:pid")
    started = time.monotonic()
    with pytest.raises(WorkerError, match=f"some_parser:{name} .*({reason})") as failed:
        worker.call(f"some_parser:{name}", seconds=0.5)
    assert failed.value.hint
    assert time.monotonic() - started < 10
    assert worker.call("some_parser:echo", "still here") == ["still here"]


def test_the_place_in_the_parser_is_the_cause(worker: ParserWorker) -> None:
    with pytest.raises(WorkerError) as failed:
        worker.call("some_parser:fails")
    assert isinstance(failed.value.__cause__, RemoteTraceback)
    assert "some_parser.py" in str(failed.value.__cause__)


def test_luna_s_own_errors_arrive_as_they_are(worker: ParserWorker) -> None:
    with pytest.raises(IntegrityError) as failed:
        worker.call("some_parser:known")
    assert type(failed.value) is IntegrityError
    assert (failed.value.text, failed.value.hint) == ("um dois", "do this")


def test_only_what_is_allowed_is_called(worker: ParserWorker) -> None:
    with pytest.raises(UsageError, match="os:system"):
        worker.call("os:system", "true")
    with pytest.raises(WorkerError, match="no_such_module"):
        worker.call("no_such_module:f")
    for bad in ("os.system", "os:", ":f", "a b:c", "os:path.join", "a;b:c", "a,b:c"):
        with pytest.raises(ValueError, match="not 'package"):
            ParserWorker(allowed={bad})


def test_what_a_parser_prints_does_not_disturb(worker: ParserWorker, capfd: pytest.CaptureFixture[str]) -> None:
    assert worker.call("some_parser:noise") == ""
    assert worker.call("some_parser:echo", 1) == [1]
    assert capfd.readouterr() == ("", "")


def test_large_results_pass(worker: ParserWorker) -> None:
    size = 140_000_000  # characters; 196 MB as UTF-8, 224 MB as JSON
    started = time.monotonic()
    text = worker.call("some_parser:text", size)
    print(f"196 MB of text in {time.monotonic() - started:.1f} s")
    assert len(text) == size
    assert text[-5:] == "ação\n"


def test_too_large_results_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    with ParserWorker(allowed={"some_parser:text"}, max_result=100_000) as worker:
        with pytest.raises(WorkerError, match=r"1\.6 MB, more than 100\.0 kB"):
            worker.call("some_parser:text", 1_000_000)
        assert len(worker.call("some_parser:text", 1000)) == 1000


def test_a_parser_writes_no_files_and_opens_few(worker: ParserWorker, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="File too large"):
        worker.call("some_parser:write", str(tmp_path / "file"))
    assert 50 < worker.call("some_parser:descriptors") < 128


def test_one_process_serves_all_calls(worker: ParserWorker) -> None:
    """How fast is measured by `benchmarks/parser_worker.py`."""
    first = worker.call("some_parser:pid")
    for number in range(300):
        assert worker.call("some_parser:echo", number) == [number]
    assert worker.call("some_parser:pid") == first


def test_threads_get_their_own_answers(worker: ParserWorker) -> None:
    wrong: list[int] = []

    def ask(base: int) -> None:
        wrong.extend(n for n in range(base, base + 50) if worker.call("some_parser:echo", n) != [n])

    threads = [threading.Thread(target=ask, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_process_ends_with_the_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    worker = ParserWorker(allowed={"some_parser:pid"})
    pid = worker.call("some_parser:pid")
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert worker.call("some_parser:pid") != pid
    worker.close()


def test_nothing_from_the_current_folder_is_imported(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    script = (
        "import sys; sys.path = [p for p in sys.path if p]\n"
        "from luna_kernel.base.worker import ParserWorker\n"
        "with ParserWorker(allowed={'operator:add'}) as w: print(w.call('operator:add', 1, 2))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "3\n", done.stderr


@pytest.mark.parametrize(("program", "reason"), [("/bin/false", "exit status 1"), ("/no/such/python", "No such file")])
def test_a_worker_that_cannot_start_says_so(program: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with (
        ParserWorker(allowed={"operator:add"}) as worker,
        pytest.raises(WorkerError, match=f"did not start: .*{reason}"),
    ):
        worker.call("operator:add", 1, 2)


def test_memory_is_bounded_however_it_grows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    with ParserWorker(allowed={"some_parser:growing", "some_parser:pid"}, memory=1 << 28) as worker:
        before = worker.call("some_parser:pid")
        with pytest.raises(WorkerError, match=r"more than 268\.4 MB of memory"):
            worker.call("some_parser:growing")
        assert worker.call("some_parser:pid") != before
