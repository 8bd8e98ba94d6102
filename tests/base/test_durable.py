from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from luna_kernel.base import durable, folders, integrity, storage
from luna_kernel.base.errors import StorageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_json_keeps_order_and_accents_and_ends_in_a_newline(tmp_path: Path) -> None:
    durable.write_json(tmp_path / "new" / "á.json", {"z": "ção", "a": [1]})
    data = (tmp_path / "new" / "á.json").read_bytes()
    assert data == '{\n  "z": "ção",\n  "a": [\n    1\n  ]\n}\n'.encode()


def test_what_json_does_not_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        durable.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.usefixtures("umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "open", b"")
    durable.write_bytes(tmp_path / "secret", b"", private=True)
    assert (mode(tmp_path / "open"), mode(tmp_path / "secret")) == (0o644, 0o600)
    for private, folder_mode, file_mode in ((False, 0o755, 0o644), (True, 0o700, 0o600)):
        with durable.replace_folder(tmp_path / "m", marker="k", private=private) as new:
            (new / "k").touch()
        assert (mode(tmp_path / "m"), mode(tmp_path / "m" / "k")) == (folder_mode, file_mode)


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    durable.write_text(tmp_path / "real" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    durable.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    with durable.replace_folder(tmp_path / "folder", marker="k") as new:
        durable.write_text(new / "k", "")
    assert (tmp_path / "folder").is_symlink()
    assert names(tmp_path / "real") == ["k"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, FileNotFoundError])
def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    durable.write_text(tmp_path / "a", "old")

    def interrupted() -> None:
        with durable.create_file(tmp_path / "a") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_can_be_sought_and_read_while_it_is_made(tmp_path: Path) -> None:
    with durable.create_file(tmp_path / "a") as file:
        file.write(b"....tail")
        file.seek(0)
        file.write(b"head")
        file.seek(0)
        assert file.read() == b"headtail"
    assert (tmp_path / "a").read_bytes() == b"headtail"


def test_a_library_writes_under_the_name_it_will_have(tmp_path: Path) -> None:
    def save(path: str) -> None:
        Path(path).write_text("weights")
        Path(path).chmod(0o600)
        Path(path).with_suffix(".left-behind").write_text("")
        assert Path(path).name == "model.safetensors"

    durable.write_with(tmp_path / "model.safetensors", save)
    assert names(tmp_path) == ["model.safetensors"]
    assert mode(tmp_path / "model.safetensors") == 0o644


def test_where_nothing_can_be_written_the_error_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file was not safely written") as refused:
        durable.write_text(tmp_path / "file" / "a", "")
    assert refused.value.hint
    durable.make_folder(tmp_path / "folder")
    with pytest.raises(StorageError, match="folder"):
        durable.write_text(tmp_path / "folder", "")
    assert names(tmp_path) == ["file", "folder"]


def test_sizes_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [storage.size_text(n) for n in (0, 999, 1000, 999_949, 999_951, 12_345_678, 5 * 10**15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "12.3 MB",
        "5\N{NARROW NO-BREAK SPACE}000.0 TB",
    ]
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    assert storage.size_text(1500) == "1,5 kB"


class TestOrderOnDisk:
    """What a power cut would find: names only ever point to bytes that were synced before."""

    @pytest.fixture
    def steps(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        steps: list[tuple[str, str]] = []
        real_sync, real_replace, real_exchange = os.fsync, Path.replace, folders._exchange
        real_rename = Path.rename

        def fsync(fd: int) -> None:
            real_sync(fd)
            steps.append(("sync", str(Path(f"/proc/self/fd/{fd}").readlink())))

        def replace(one: Path, other: Path) -> None:
            real_replace(one, other)
            steps.append(("name", f"{one} -> {other}"))

        def rename(one: Path, other: Path) -> None:
            real_rename(one, other)
            steps.append(("name", f"{one} -> {other}"))

        def exchange(one: Path, other: Path) -> bool:
            done = real_exchange(one, other)
            steps.append(("name", f"{one} -> {other}"))
            return done

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(Path, "rename", rename)
        monkeypatch.setattr(folders, "_exchange", exchange)
        return steps

    def test_file(self, tmp_path: Path, steps: list[tuple[str, str]]) -> None:
        durable.write_text(tmp_path / "a", "text")
        (kind_1, temp), (kind_2, renamed), (kind_3, folder) = steps
        assert (kind_1, kind_2, kind_3) == ("sync", "name", "sync")
        assert renamed == f"{temp} -> {tmp_path / 'a'}"
        assert folder == str(tmp_path)

    @pytest.mark.parametrize("before", ["absent", "there", "no exchange"])
    def test_folder(
        self, tmp_path: Path, before: str, steps: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "m"
        if before != "absent":
            path.mkdir()
        if before == "no exchange":
            monkeypatch.setattr(folders, "_exchange", lambda *_: False)
        with durable.replace_folder(path, marker="k") as new:
            (new / "sub").mkdir()
            (new / "sub" / "by-a-library").write_text("x")
            (new / "k").write_text("k")
        places = [place for _, place in steps]
        wanted = f"{new} -> {path}"
        if before == "no exchange":
            wanted = next(place for place in places if "-ready-" in place and place.endswith(f" -> {path}"))
            ready = next(number for number, place in enumerate(places) if place.startswith(f"{new} -> "))
            assert places[ready + 1] == str(tmp_path)  # "ready" is on the disk before the old goes aside
        swap = places.index(wanted)
        synced = {place for kind, place in steps[:swap] if kind == "sync"}
        assert {str(new), str(new / "sub"), str(new / "sub" / "by-a-library"), str(new / "k")} <= synced
        assert steps[-1] == ("sync", str(tmp_path))
        assert steps.index(("sync", str(tmp_path)), swap) > swap


class TestFolders:
    def test_the_marker_must_be_there(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"luna\.json"), durable.replace_folder(tmp_path / "m") as new:
            durable.write_text(new / "weights", "")
        assert names(tmp_path) == []

    @pytest.mark.parametrize("exchange", [True, False])
    def test_an_exception_leaves_the_old(self, tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if not exchange:
            monkeypatch.setattr(folders, "_exchange", lambda *_: False)
        for which in ("old", "new"):
            with durable.replace_folder(tmp_path / "m", marker="k") as new:
                durable.write_text(new / "k", which)
        assert names(tmp_path) == ["m"]

        def interrupted() -> None:
            with durable.replace_folder(tmp_path / "m", marker="k") as new:
                durable.write_text(new / "k", "lost")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert names(tmp_path) == ["m"]
        assert (tmp_path / "m" / "k").read_text() == "new"

    def test_a_refused_swap_puts_the_old_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folders, "_exchange", lambda *_: False)
        durable.write_text(tmp_path / "m" / "k", "old")
        real = Path.rename

        def rename(self: Path, target: Path) -> Path:
            if "-ready-" in self.name:
                raise OSError(5, "Input/output error")
            return real(self, target)

        monkeypatch.setattr(Path, "rename", rename)

        def fill() -> None:
            with durable.replace_folder(tmp_path / "m", marker="k") as new:
                durable.write_text(new / "k", "new")

        with pytest.raises(StorageError, match="m was not safely written: the disk failed"):
            fill()
        assert names(tmp_path) == ["m"]
        assert (tmp_path / "m" / "k").read_text() == "old"

    def test_an_orphan_that_cannot_be_deleted_stops_nobody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        durable.write_text(tmp_path / "m" / "k", "")
        (tmp_path / "m" / ".k.luna-tmp-0123456789abcdef").write_text("")

        def refuse(_: Path) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(storage, "delete_tree", refuse)
        assert durable.recover(tmp_path / "m") == 0

    def test_one_inside_the_other(self, tmp_path: Path) -> None:
        with durable.replace_folder(tmp_path / "m", marker="k") as new:
            for which in ("one", "two"):
                with durable.replace_folder(new / "index", marker="k") as inner:
                    durable.write_text(inner / "k", which)
            durable.write_text(new / "k", "")
        assert names(tmp_path / "m") == ["index", "k"]
        assert (tmp_path / "m" / "index" / "k").read_text() == "two"

    def test_recovery_leaves_what_a_living_writer_fills(self, tmp_path: Path) -> None:
        with durable.replace_folder(tmp_path / "m", marker="k") as new:
            assert durable.recover(tmp_path / "m") == 0
            assert durable.sweep(tmp_path) == 0
            durable.write_text(new / "k", "")
        with durable.create_file(tmp_path / "a") as file:
            assert durable.sweep(tmp_path) == 0
            file.write(b"whole")
        assert (tmp_path / "a").read_text() == "whole"

    def test_recovery_goes_forward_with_a_ready_folder_and_back_without(self, tmp_path: Path) -> None:
        token = "0123456789abcdef"
        for name in (f".m.luna-old-{token}", f".m.luna-ready-{token}", f".n.luna-old-{token}"):
            durable.write_text(tmp_path / name / "k", name)
        durable.write_text(tmp_path / f".p.luna-new-{token}" / "k", "")
        (tmp_path / f".a.txt.luna-tmp-{token}").write_text("half")
        assert durable.sweep(tmp_path) == 3
        assert names(tmp_path) == ["m", "n"]
        assert "ready" in (tmp_path / "m" / "k").read_text()
        assert "old" in (tmp_path / "n" / "k").read_text()

    def test_recovery_ignores_a_ready_folder_without_the_marker(self, tmp_path: Path) -> None:
        token = "0123456789abcdef"
        durable.write_text(tmp_path / f".m.luna-ready-{token}" / "weights", "")
        durable.write_text(tmp_path / f".m.luna-old-{token}" / "luna.json", "")
        durable.recover(tmp_path / "m", marker="luna.json")
        assert names(tmp_path) == ["m"]
        assert names(tmp_path / "m") == ["luna.json"]

    def test_recovery_touches_only_luna_s_own_names(self, tmp_path: Path) -> None:
        others = [".git", ".m.luna-old-xyz", "m.luna-new-0123456789abcdef", ".luna-tmp-0123456789abcdef", ".m.tmp"]
        for name in others:
            (tmp_path / name).mkdir()
        assert durable.sweep(tmp_path) == 0
        assert names(tmp_path) == sorted(others)
        assert durable.recover(tmp_path / "absent" / "deeper") == 0

    def test_removed_folders_are_gone_and_links_are_not_followed(self, tmp_path: Path) -> None:
        durable.write_text(tmp_path / "m" / "sub" / "a", "")
        durable.write_text(tmp_path / "kept" / "a", "")
        (tmp_path / "m" / "link").symlink_to(tmp_path / "kept")
        (tmp_path / "link").symlink_to(tmp_path / "kept")
        assert durable.remove_folder(tmp_path / "m")
        assert durable.remove_folder(tmp_path / "link")
        assert not durable.remove_folder(tmp_path / "m")
        assert names(tmp_path) == ["kept"]
        assert names(tmp_path / "kept") == ["a"]

    def test_two_threads_replace_one_folder(self, tmp_path: Path) -> None:
        def work(which: str) -> None:
            for number in range(30):
                with durable.replace_folder(tmp_path / "m", marker="luna.json") as new:
                    durable.write_text(new / "a", f"{which}{number}")
                    durable.write_json(new / "luna.json", integrity.seal(new))

        threads = [threading.Thread(target=work, args=(which,)) for which in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names(tmp_path) == ["m"]
        integrity.check(tmp_path / "m", integrity.read_json(tmp_path / "m" / "luna.json"))


class TestLogs:
    def test_lines_are_appended_and_a_torn_one_is_cut(self, tmp_path: Path) -> None:
        log = tmp_path / "run" / "log.jsonl"
        durable.append_line(log, '{"step": 1}')
        with log.open("a") as file:
            file.write('{"step": 2, "lo')
        durable.append_line(log, '{"step": 3}')
        assert [json.loads(line)["step"] for line in log.read_text().split("\n")[:-1]] == [1, 3]

    @pytest.mark.parametrize(
        ("content", "after", "dropped"),
        [
            (b"", b"", 0),
            (b"{}\n", b"{}\n", 0),
            (b'{}\n{"a": 1', b"{}\n", 7),
            (b'{"a": 1', b"", 7),
            (b'{}\n{"a": 1}', b'{}\n{"a": 1}\n', 0),
            (b"{}\n12", b"{}\n", 2),
            (b"{}\n\0\0\0", b"{}\n", 3),
            (b"{}\n" + b'"' + b"x" * 200_000, b"{}\n", 200_001),
            (b'{"long": "' + b"y" * 200_000 + b'"}\n{', b'{"long": "' + b"y" * 200_000 + b'"}\n', 1),
        ],
    )
    def test_repair(self, tmp_path: Path, content: bytes, after: bytes, dropped: int) -> None:
        log = tmp_path / "log.jsonl"
        log.write_bytes(content)
        assert durable.repair_jsonl(log) == dropped
        assert log.read_bytes() == after

    def test_nothing_to_repair(self, tmp_path: Path) -> None:
        assert durable.repair_jsonl(tmp_path / "absent.jsonl") == 0
        assert names(tmp_path) == []

    def test_one_line_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="newline"):
            durable.append_line(tmp_path / "log", "a\nb")
        durable.append_line(tmp_path / "log", "a\u2028b\x85c")
        assert (tmp_path / "log").read_bytes().count(b"\n") == 1


def test_files_are_removed_once(tmp_path: Path) -> None:
    durable.write_text(tmp_path / "a", "")
    assert durable.remove_file(tmp_path / "a")
    assert not durable.remove_file(tmp_path / "a")


def test_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    name = "ç" * 125
    durable.write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"
