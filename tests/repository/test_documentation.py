"""Documentation agrees with the code: hooks, kinds, catalogue, requirements, messages, links, the README's commands."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from luna_kernel.plugins import hookspecs, load_plugins
from luna_kernel.plugins.kinds import HOOK_KINDS, KINDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
HOOKS = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
SPECS = {name: value for name, value in vars(hookspecs).items() if name.startswith("luna_")}
PLUGINS = sorted(file.parent.name for file in (ROOT / "luna_plugins").glob("*/pyproject.toml"))
CATALOGUE: dict[str, Any] = json.loads((ROOT / "luna_kernel" / "plugins" / "known_plugins.json").read_text("utf-8"))
NOT_CALLED_YET = {"luna_train_stage_start"}
"""Its page says so; it comes with curricula."""


def section(hook: str) -> str:
    match = re.search(rf"^### `{hook}`$(.*?)(?=^##|\Z)", HOOKS, re.MULTILINE | re.DOTALL)
    assert match, f"docs/hooks.md has no section on {hook}"
    return match[1]


@pytest.mark.parametrize("hook", SPECS)
def test_a_hook_is_documented_with_its_exact_signature(hook: str) -> None:
    text = section(hook)
    signature = str(inspect.signature(SPECS[hook])).replace("'", "")
    assert f"def {hook}{signature}\n" in text
    assert inspect.getdoc(SPECS[hook]) in text
    example = text.split("```python")[2].split("```")[0]
    module = ast.parse(example)
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    assert function.name == hook
    assert {argument.arg for argument in function.args.args} <= set(inspect.signature(SPECS[hook]).parameters)


def test_no_hook_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^### `(luna_\w+)`$", HOOKS, re.MULTILINE)) == set(SPECS)


@pytest.mark.parametrize("hook", SPECS)
def test_a_hook_has_a_test_that_names_it(hook: str) -> None:
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(hook in path.read_text(encoding="utf-8") for path in tests)


@pytest.mark.parametrize("hook", [hook for hook in SPECS if hook not in HOOK_KINDS])
def test_a_hook_that_tells_is_called(hook: str) -> None:
    callers = [
        path
        for top in ("luna_kernel", "luna_plugins")
        for path in (ROOT / top).rglob("*.py")
        if path.parent.name not in ("plugins", "tests") and f'"{hook}"' in path.read_text(encoding="utf-8")
    ]
    assert bool(callers) is (hook not in NOT_CALLED_YET)
    assert ("not called yet" in section(hook)) is (hook in NOT_CALLED_YET)


@pytest.mark.parametrize("hook", HOOK_KINDS)
def test_a_hook_names_its_kinds(hook: str) -> None:
    """In its docstring, so in docs/hooks.md, in the same order."""
    named = re.findall(r"[a-z_]+", (inspect.getdoc(SPECS[hook]) or "").partition("Kind")[2])
    assert [word for word in named if word in KINDS] == list(HOOK_KINDS[hook])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_documented(kind: str) -> None:
    """In the table, with its hook, and in bold on the page of its family, which names the contract."""
    table = (ROOT / "docs" / "kinds.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if re.search(rf"\| .*`{kind}`.*\|", line))
    hook = next(hook for hook, kinds in HOOK_KINDS.items() if kind in kinds)
    assert f"`{hook}`" in row
    page = re.search(r"\((kinds/\w+\.md)\)", row)
    assert page
    text = (ROOT / "docs" / page[1]).read_text(encoding="utf-8")
    assert re.search(rf"\*\*`{kind}`\*\*", text)
    for contract in re.findall(r"`(contracts/\w+\.py)`", row):
        assert (ROOT / "luna_kernel" / contract).is_file()
        assert contract in text


def base_classes() -> set[str]:
    return {
        node.name
        for path in (ROOT / "luna_kernel" / "contracts").glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "kinds").glob("*.md")), ids=lambda path: path.stem)
def test_the_base_classes_of_a_page_exist(page: Path) -> None:
    named = set()
    for sentence in re.findall(r"[Bb]ase\s+class(?:es)?\s+((?:`\w+`(?:,\s+)?)+)", page.read_text(encoding="utf-8")):
        named |= set(re.findall(r"`(\w+)`", sentence))
    assert named <= base_classes()


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_the_catalogue_names_the_plugins_of_this_repository() -> None:
    assert sorted(CATALOGUE) == PLUGINS
    for name in PLUGINS:
        table = tomllib.loads((ROOT / "luna_plugins" / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert CATALOGUE[name]["distribution"] == table["name"]
        assert CATALOGUE[name]["help"] == table["description"]


@pytest.mark.parametrize("name", PLUGINS)
def test_the_catalogue_and_the_plugin_agree(name: str) -> None:
    """Both ways: nothing is promised that is not brought, and nothing is brought in silence."""
    installed = load_plugins("all")
    if name not in installed.statuses:
        pytest.skip(f"{name} is not installed in this environment")
    plugins = load_plugins(name)
    brought = sorted(f"{item.kind}:{item.name}" for item in plugins.registry.of_plugin(name))
    assert CATALOGUE[name]["components"] == brought


@pytest.mark.parametrize("name", PLUGINS)
def test_every_field_is_on_the_plugins_page(name: str) -> None:
    installed = load_plugins("all")
    if name not in installed.statuses:
        pytest.skip(f"{name} is not installed in this environment")
    page = (ROOT / "luna_plugins" / name / "README.md").read_text(encoding="utf-8")
    for item in load_plugins(name).registry.of_plugin(name):
        model = item.load_config() if item.config else None
        missing = [field for field in getattr(model, "model_fields", {}) if f"`{field}`" not in page]
        assert not missing, f"{item.kind} {item.name}"


# --- the repository --------------------------------------------------------------------------------------------------


def test_the_readme_has_the_command_that_the_clean_run_uses() -> None:
    command = re.search(r"^command='(.+)'$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert command
    for readme in ("README.md", "README.pt-BR.md"):
        assert command[1] in (ROOT / readme).read_text(encoding="utf-8").splitlines(), readme


def test_the_kernels_requirements_are_listed_once_more_for_tox() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "contrib" / "requirements-kernel.txt").read_text(encoding="utf-8")
    listed = [line for line in text.splitlines() if line and not line.startswith(("#", "-"))]
    assert [line.replace("'", '"') for line in listed] == [line.replace("'", '"') for line in project["dependencies"]]


def test_every_plugin_is_in_the_requirements_and_in_the_matrix() -> None:
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in requirements if line.startswith("./luna_plugins/")] == [
        f"./luna_plugins/{name}" for name in PLUGINS
    ]
    matrix = re.search(r"^env_list = (.+)$", (ROOT / "tox.ini").read_text(encoding="utf-8"), re.MULTILINE)
    assert matrix
    environments = matrix[1].split(", ")
    assert set(PLUGINS) | {"base", "none", "all", "lint"} <= set(environments)
    assert environments.index("base") == 0, "the others stand on it"
    assert environments[-1] == "all", "the clean run ends with its closing line"


def test_constraints_are_exact_and_name_no_host() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*(; python_version >= \"3\.\d+\")?", pin) for pin in pins), (
        pins
    )
    assert "torch==2.13.0" in pins
    constrained = {re.split("==", pin)[0].lower().replace("_", "-") for pin in pins}
    needed = set()
    for file in ("pyproject.toml", *(f"luna_plugins/{name}/pyproject.toml" for name in PLUGINS)):
        project = tomllib.loads((ROOT / file).read_text(encoding="utf-8"))["project"]
        texts = project["dependencies"] + project.get("optional-dependencies", {}).get("test", [])
        needed |= {re.split(r"[<>=!~; \[]", text)[0].lower().replace("_", "-") for text in texts}
    assert {name for name in needed if not name.startswith("luna-")} - {"tomli"} <= constrained


def test_the_template_is_linked_where_authors_look() -> None:
    assert (ROOT / "contrib" / "template" / "luna_plugin_xyz" / "layer.py").is_file()


DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "contrib/*.md", "luna_plugins/*/*.md")
    for path in sorted(ROOT.glob(pattern))
    if "exemplos" not in path.parts
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").iterdir()), ids=lambda path: path.name)
def test_a_file_of_figures_is_quoted_somewhere(path: Path) -> None:
    """And says nothing of the folders of the machine that it was made on."""
    assert any(path.name in document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert not re.search(r'"/|=/', path.read_text(encoding="utf-8"))
