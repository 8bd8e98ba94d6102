"""The laws of the house, read from the source: they hold for every file that is added."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("base", "plugins", "contracts", "data", "model", "train", "chat", "cli")
VAGUE = {"util", "utils", "helper", "helpers", "misc", "common", "shared", "stuff", "tools"}


def is_test(path: Path) -> bool:
    return "tests" in path.relative_to(ROOT).parts


KERNEL = sorted((ROOT / "luna_kernel").rglob("*.py"))
PLUGINS = sorted(path for path in (ROOT / "luna_plugins").rglob("*.py") if "build" not in path.parts)
SHIPPED = [path for path in KERNEL + PLUGINS if not is_test(path)]
MESSAGES = sorted(
    folder
    for top in ("luna_kernel", "luna_plugins", "contrib")
    for folder in (ROOT / top).rglob("messages")
    if folder.is_dir() and "build" not in folder.parts
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def calls(node: ast.AST) -> Iterator[ast.Call]:
    return (found for found in ast.walk(node) if isinstance(found, ast.Call))


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute; what is neither is `?`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return "?"


def check_all(findings: Iterator[str]) -> None:
    found = list(findings)
    assert not found, "\n" + "\n".join(found)


# --- Only the durable writer writes. ---

WRITE_MODE = re.compile(r"(?=.*[wax+])[rwaxbt+U]{1,4}")
OPENERS = {"open", "fdopen", "memmap", "open_memmap"}
WRITERS = {
    "os.rename", "os.renames", "os.replace", "os.truncate", "os.ftruncate", "os.link", "os.symlink", "os.mkfifo",
    "shutil.move", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.make_archive",
    "sqlite3.connect", "torch.save", "np.save", "np.savez", "np.savez_compressed", "np.savetxt", "numpy.save",
    "numpy.savez", "faiss.write_index", "safetensors.torch.save_file", "safetensors.numpy.save_file",
}  # fmt: skip
WRITER_METHODS = {
    "write_text", "write_bytes", "rename", "touch", "symlink_to", "hardlink_to", "tofile", "extractall", "save_file",
    "save_model", "write_index", "save_pretrained",
}  # fmt: skip
# Of these names a call on `durable` is the right way.
DURABLE = {"durable.write_text", "durable.write_bytes"}
# `save_model` alone is `luna_kernel.model.checkpoint`, which is durable itself.
WRITER_NAMES = {"save_file", "write_index"}


def writes(call: ast.Call) -> str | None:
    """What a call writes a file with, or None."""
    name = name_of(call.func)
    last = name.rpartition(".")[2]
    if last in OPENERS and not any(name_of(argument) == "os.devnull" for argument in call.args):
        modes = [argument for argument in call.args[:3] if isinstance(argument, ast.Constant)]
        modes += [word.value for word in call.keywords if word.arg == "mode" and isinstance(word.value, ast.Constant)]
        if any(isinstance(mode.value, str) and WRITE_MODE.fullmatch(mode.value) for mode in modes):
            return f"{name}(… {[mode.value for mode in modes]})"
        flags = {
            name_of(part) for argument in call.args for part in ast.walk(argument) if isinstance(part, ast.Attribute)
        }
        return f"{name}(… O_CREAT)" if flags & {"os.O_CREAT", "os.O_WRONLY", "os.O_RDWR", "os.O_APPEND"} else None
    if name in WRITERS or name in WRITER_NAMES:
        return name
    if "." in name and last in WRITER_METHODS and name not in DURABLE:
        return name
    return None


def unlawful_writes(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that write; what is handed to `durable.write_with` as a library's way of saving is lawful."""
    lawful = {
        id(inner)
        for call in calls(module)
        if name_of(call.func) in ("durable.write_with", "write_with")
        for argument in (*call.args, *(word.value for word in call.keywords))
        for inner in calls(argument)
    }
    for call in calls(module):
        what = writes(call) if id(call) not in lawful else None
        if what:
            yield call.lineno, what


def test_only_the_durable_writer_writes_files() -> None:
    check_all(
        f"{relative(path)}:{line}: {what}: write through luna_kernel.base.durable"
        for path in SHIPPED
        if not relative(path).startswith("luna_kernel/base/")
        for line, what in unlawful_writes(tree(path))
    )


@pytest.mark.parametrize(
    ("source", "unlawful"),
    [
        ("open(p, 'w')", True),
        ("open(p, mode='ab')", True),
        ("p.open('r+')", True),
        ("io.open(p, 'x')", True),
        ("gzip.open(p, 'wb')", True),
        ("os.open(p, os.O_WRONLY | os.O_CREAT)", True),
        ("np.memmap(p, np.uint16, 'w+')", True),
        ("p.write_text('x')", True),
        ("(p / 'a').rename(q)", True),
        ("os.replace(a, b)", True),
        ("shutil.move(a, b)", True),
        ("save_file(tensors, p)", True),
        ("safetensors.torch.save_file(tensors, p)", True),
        ("np.save(p, x)", True),
        ("faiss.write_index(i, p)", True),
        ("sqlite3.connect(p)", True),
        ("open(p)", False),
        ("os.open(os.devnull, os.O_WRONLY)", False),
        ("open(p, 'rb')", False),
        ("p.open(encoding='utf-8')", False),
        ("np.memmap(p, dtype=np.uint16, mode='r')", False),
        ("durable.write_text(p, 'x')", False),
        ("durable.write_with(p, lambda q: save_file(tensors, q))", False),
        ("text.replace('a', 'w')", False),
        ("webbrowser.open(url)", False),
    ],
)
def test_the_law_on_writing_sees_what_it_should(source: str, unlawful: bool) -> None:
    assert bool(list(unlawful_writes(ast.parse(source)))) is unlawful


# --- Nothing in a file is ever code. ---

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
UNSAFE_CALLS = {
    "eval", "exec", "builtins.eval", "builtins.exec", "torch.load", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.unsafe_load", "torch.hub.load", "os.system", "os.popen",
}  # fmt: skip


def unsafe(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            names = []
            if name_of(node.func) in UNSAFE_CALLS:
                yield node.lineno, name_of(node.func)
            for word in node.keywords:
                true = isinstance(word.value, ast.Constant) and word.value.value is True
                if true and word.arg in ("allow_pickle", "trust_remote_code", "shell"):
                    yield node.lineno, f"{word.arg}=True"
        else:
            continue
        for name in names:
            if name.partition(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS:
                yield node.lineno, f"import {name}"


def test_no_pickle_and_no_evaluation() -> None:
    check_all(
        f"{relative(path)}:{line}: {what} runs code from data" for path in SHIPPED for line, what in unsafe(tree(path))
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", True),
        ("from pickle import loads", True),
        ("import numpy, dill", True),
        ("from torch import load", True),
        ("torch.load(p, weights_only=True)", True),
        ("eval('1')", True),
        ("yaml.load(f)", True),
        ("np.load(p, allow_pickle=True)", True),
        ("model.eval()", False),
        ("yaml.safe_load(f)", False),
        ("import json", False),
    ],
)
def test_the_law_on_code_sees_what_it_should(source: str, found: bool) -> None:
    assert bool(list(unsafe(ast.parse(source)))) is found


# --- Imports only downwards. ---


def only_for_types(module: ast.Module) -> set[int]:
    """The nodes under `if TYPE_CHECKING:`, which never run."""
    blocks = [node for node in ast.walk(module) if isinstance(node, ast.If) and name_of(node.test) == "TYPE_CHECKING"]
    return {id(inner) for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, full name) of every import that can run; a name from a package counts as that package's module."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    types = only_for_types(tree(path))
    for node in ast.walk(tree(path)):
        if id(node) in types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *filter(None, [node.module]), alias.name])


def room_of(name: str) -> str:
    """The room of `luna_kernel.<room>.…`; of a name in the package itself, empty."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "luna_kernel" and parts[1] in (*ROOMS, "testing") else ""


def test_every_room_is_known() -> None:
    folders = {path.name for path in (ROOT / "luna_kernel").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders - {"__pycache__"} <= {*ROOMS, "testing"}


def test_rooms_import_only_downwards() -> None:
    def findings() -> Iterator[str]:
        for path in KERNEL:
            room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            if room == "testing" or "plugin-template" in path.parts:  # copied by `luna plugins new`
                continue
            # `luna_kernel/__init__.py` is below all rooms, `__main__.py` is the command line, others are plugin-like.
            rank = ROOMS.index(room or {"__main__.py": "cli"}.get(path.name, "plugins"))
            if relative(path) == "luna_kernel/__init__.py":
                rank = -1
            for line, name in imported(path):
                other = room_of(name)
                if other == "testing" or (other and ROOMS.index(other) > rank):
                    yield f"{relative(path)}:{line}: {room or path.name} imports {name}, which is above it"

    check_all(findings())


def test_the_kernel_names_no_plugin() -> None:
    naming = re.compile(r"luna_plugin_[a-z]\w*|luna-plugin-[a-z][\w-]*")
    example = re.compile(r"luna[_-]plugin[_-]xyz\b.*")
    check_all(
        f"{relative(path)}:{number}: {match.group()}"
        for path in KERNEL
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        for match in naming.finditer(line)
        if not example.fullmatch(match.group())
    )


def test_a_plugin_imports_another_only_if_it_declares_it() -> None:
    def findings() -> Iterator[str]:
        for path in PLUGINS:
            folder = ROOT / "luna_plugins" / path.relative_to(ROOT / "luna_plugins").parts[0]
            project = folder / "pyproject.toml"
            declared = project.read_text(encoding="utf-8") if project.is_file() else ""
            for line, name in imported(path):
                other = re.match(r"luna_plugin_(\w+)", name)
                if other and other[1] != folder.name and f"luna-plugin-{other[1].replace('_', '-')}" not in declared:
                    yield f"{relative(path)}:{line}: imports {name} without declaring it"

    check_all(findings())


def test_a_plugin_has_one_name() -> None:
    def findings() -> Iterator[str]:
        for project in (ROOT / "luna_plugins").glob("*/pyproject.toml"):
            text, name = project.read_text(encoding="utf-8"), project.parent.name
            package = f"luna_plugin_{name}"
            if f'name = "luna-plugin-{name.replace("_", "-")}"' not in text:
                yield f"{relative(project)}: the distribution is not luna-plugin-{name}"
            if not (project.parent / package / "__init__.py").is_file():
                yield f"{relative(project)}: there is no package {package}"
            if not re.search(rf'^"?{re.escape(name)}"? = "{package}"$', text, re.MULTILINE):
                yield f'{relative(project)}: there is no entry point {name} = "{package}"'
            if re.search(r'"luna-kernel[^"]*(<|==|~=)', text):
                yield f"{relative(project)}: caps the kernel's version"

    check_all(findings())


# --- Files that can be read. ---


def test_names_say_what_is_inside_and_files_are_short() -> None:
    def findings() -> Iterator[str]:
        for path in [*KERNEL, *PLUGINS]:
            if path.stem in VAGUE or path.parent.name in VAGUE:
                yield f"{relative(path)}: a name that says nothing"
            lines = path.read_bytes().count(b"\n")
            if lines > 500:
                yield f"{relative(path)}: {lines} lines, more than 500"

    check_all(findings())


# --- Messages: both languages, the same keys, the same fields, and every key that the code uses. ---


def fields(text: str) -> set[str]:
    return {re.split(r"[.\[]", name)[0] for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@cache
def texts(folder: Path, lang: str) -> dict[str, str]:
    return dict(json.loads((folder / f"{lang}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("folder", MESSAGES, ids=relative)
def test_both_languages_say_the_same(folder: Path) -> None:
    english, portuguese = texts(folder, "en"), texts(folder, "pt_BR")
    assert list(english) == list(portuguese)
    different = [key for key in english if fields(english[key]) != fields(portuguese[key])]
    assert not different
    # A field without a name, or a brace that is no field, would only fail when the error is shown.
    assert not [key for text in (english, portuguese) for key in text if fields(text[key]) & {"", " "}]
    assert not [key for key in english if len(english[key]) > 20 and english[key] == portuguese[key]]


def catalogue_of(path: Path) -> Path | None:
    """The messages folder whose `t` a module has: its package's, or the one it names or imports from."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and [name_of(target) for target in node.targets] == ["t"]:
            call = node.value
            if isinstance(call, ast.Call) and name_of(call.func) == "catalogue":
                argument = call.args[0]
                if isinstance(argument, ast.Constant):
                    name = str(argument.value)
                    tops = [ROOT, *(ROOT / "luna_plugins").glob("*")]
                    found = (top.joinpath(*name.split("."), "messages") for top in tops)
                    return next((folder for folder in found if folder.is_dir()), None)
                return path.parent / "messages"
    for _, name in imported(path):
        if name.endswith(".t"):
            return path.parent / "messages"
    return None


def wrong_messages(module: ast.Module, known: dict[str, str]) -> Iterator[tuple[int, str]]:
    for call in calls(module):
        if name_of(call.func) != "t" or not call.args or not isinstance(call.args[0], ast.Constant):
            continue
        key = call.args[0].value
        if key not in known:
            yield call.lineno, f"there is no message {key!r}"
        elif all(word.arg for word in call.keywords):
            missing = fields(known[key]) - {word.arg for word in call.keywords}
            if missing:
                yield call.lineno, f"the message {key!r} lacks {sorted(missing)}"


def test_every_message_that_the_code_uses_exists_with_its_fields() -> None:
    def findings() -> Iterator[str]:
        for path in SHIPPED:
            folder = catalogue_of(path)
            if folder is None:
                continue
            if not folder.is_dir():
                yield f"{relative(path)}: there is no {relative(folder)}"
                continue
            for line, what in wrong_messages(tree(path), texts(folder, "en")):
                yield f"{relative(path)}:{line}: {what}"

    check_all(findings())


def test_the_law_on_messages_sees_what_it_should() -> None:
    known = {"a": "one {x}", "b": "two"}
    source = "t('a', x=1); t('b'); t('a', **more); t(key); t('c'); t('a', y=1)"
    assert [what for _, what in wrong_messages(ast.parse(source), known)] == [
        "there is no message 'c'",
        "the message 'a' lacks ['x']",
    ]
