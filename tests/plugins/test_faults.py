"""Bad plugins, really installed. Merely so: listed with the reason, all else works. Named: exit 2 and the reason."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

ADD = """
@hookimpl
def luna_add_layers(add):
    add("ffn", "good", "luna_plugin_bad.layer:Good")
"""

# name: (source of the light module, what its reason must match, options of `install`)
FAULTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "raises at import": ("raise RuntimeError('boom')", r"RuntimeError: boom", {}),
    "syntax error": ("def f(:\n", r"SyntaxError: .*\(__init__\.py:\d+\)", {}),
    "missing dependency": ("import no_such_library_", r"ModuleNotFoundError: .*no_such_library_", {}),
    "exits at import": ("import sys; sys.exit(0)", r"ends the program at import \(exit status 0\)", {}),
    "own base exception": ("class Stop(BaseException): ...\nraise Stop('x')", r"Stop: x", {}),
    "misspelt hook": ("@hookimpl\ndef luna_add_layer(add): ...", r"luna_add_layer", {}),
    "unmarked hook": ("def luna_add_layers(add): ...", r"luna_add_layers has no @hookimpl", {}),
    "wrong argument": ("@hookimpl\ndef luna_add_layers(adder): ...", r"luna_add_layers.*adder", {}),
    "wrapper": ("@hookimpl(wrapper=True)\ndef luna_doctor():\n    return (yield)", r"luna_doctor is a wrapper", {}),
    "newer api": ("LUNA_API = 2\n" + ADD, r"API 2 .*API 1; upgrade the kernel", {}),
    "older api": ("LUNA_API = 0\n" + ADD, r"API 0 .*upgrade the plugin: pip install -U luna-plugin-bad", {}),
    "no api": (ADD, r"does not declare the integer LUNA_API", {"head": "from luna_kernel import hookimpl\n"}),
    "api is no integer": ("LUNA_API = True\n" + ADD, r"does not declare the integer LUNA_API", {}),
    "no such module": ("", r"ModuleNotFoundError", {"module": "luna_plugin_bad"}),
    "the kernel's own component": (
        "@hookimpl\ndef luna_add_layers(add):\n    add('ffn', 'swiglu', 'a.b:C')",
        r"Two plugins bring ffn “swiglu”: kernel \(luna-kernel\) and bad \(luna-plugin-bad\)",
        {},
    ),
    "the kernel's own verb": (
        "@hookimpl\ndef luna_add_commands(add):\n    add('verb', 'run', 'a.b:c')",
        r"Two plugins bring verb “run”",
        {},
    ),
    "add hook raises": ("@hookimpl\ndef luna_add_chat(add):\n    1 / 0", r"ZeroDivisionError", {}),
    "add hook exits": ("@hookimpl\ndef luna_add_chat(add):\n    raise SystemExit(3)", r"exit status 3", {}),
    "wrong kind": (
        "@hookimpl\ndef luna_add_chat(add):\n    add('ffn', 'x', 'a:b')",
        r"luna_add_chat does not take kind “ffn”; possible kinds: step, command, generator",
        {},
    ),
    "bad target": ("@hookimpl\ndef luna_add_layers(add):\n    add('ffn', 'x', 'a.b.c')", r"“a.b.c” is not of the", {}),
    "target is no name": ("@hookimpl\ndef luna_add_layers(add):\n    add('ffn', 'x', 'a:b c')", r"“a:b c” is not", {}),
    "requires is a text": ("LUNA_REQUIRES = 'moc'", r"LUNA_REQUIRES must be a tuple", {}),
    "requires what is not there": (
        "LUNA_REQUIRES = ('no_such_plugin',)",
        r"requires the plugin “no_such_plugin”, which is not installed$",
        {},
    ),
    "requires a broken one": ("LUNA_REQUIRES = ('worse',)", r"requires the plugin “worse”, which does not work", {}),
}

GOOD = """
@hookimpl
def luna_add_commands(add):
    add("verb", "greet", "luna_plugin_good.verb:greet", help="Say hello")
"""
VERB = """
import click

@click.command()
@click.pass_obj
def greet(app):
    print("hello from", sorted(set(app.plugins().names) & {"good", "bad"}))
"""


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, site: Any) -> Any:
    """A site with the bad plugin and a good one; gives the site and the pattern of the reason."""
    source, pattern, options = FAULTS[request.param]
    site.install("bad", source, **options)
    if request.param == "no such module":
        (site.folder / "luna_plugin_bad" / "__init__.py").unlink()
        (site.folder / "luna_plugin_bad").rmdir()
    if request.param == "requires a broken one":
        site.install("worse", "1 / 0")
    site.install("good", GOOD, files={"verb.py": VERB})
    return site, pattern


def test_merely_installed(fault: Any) -> None:
    """`luna plugins` lists it as broken with its reason; help and other plugins work."""
    site, pattern = fault
    listed = site.run("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = {row["name"]: row for row in json.loads(listed.stdout)["plugins"]}
    assert rows["bad"]["state"] == "broken"
    assert re.search(pattern, rows["bad"]["reason"]), rows["bad"]["reason"]
    assert rows["bad"]["components"] == []
    assert rows["good"]["state"] == "on"
    helped = site.run("--help")
    assert helped.returncode == 0
    assert "greet" in helped.stdout
    assert "“bad” (luna-plugin-bad) was left out" in helped.stderr
    greeted = site.run("greet")
    assert (greeted.returncode, greeted.stdout) == (0, "hello from ['good']\n"), greeted.stderr
    assert greeted.stderr.count("“bad” (luna-plugin-bad) was left out") == 1, "said once"


def test_named(fault: Any) -> None:
    """Exit 2 with the reason, also through the environment; the table and the help page are still shown."""
    site, pattern = fault
    greeted = site.run("greet", env={"LUNA_PLUGINS": "bad,good"})
    assert greeted.returncode == 2, greeted.stderr
    assert greeted.stdout == ""
    first = greeted.stderr.splitlines()[0]
    assert first.startswith("Error: Plugin “bad” (luna-plugin-bad) does not work: ")
    assert re.search(pattern, first.removesuffix(".")), first
    assert "Traceback" not in greeted.stderr
    listed = site.run("plugins", "--plugins", "bad")
    assert listed.returncode == 2
    assert re.search(r"^bad +luna-plugin-bad +1\.0 .*broken", listed.stdout, re.MULTILINE)
    helped = site.run("--plugins", "bad", "--help")
    assert helped.returncode == 0
    assert "doctor" in helped.stdout


def test_doctor_and_check_fail_when_something_is_broken(site: Any) -> None:
    site.install("bad", "1 / 0")
    for args in (("doctor",), ("doctor", "--plugins", "bad"), ("plugins", "--check")):
        done = site.run(*args)
        assert done.returncode == 1, args
        assert "ZeroDivisionError" in done.stdout


def test_all_at_once(site: Any) -> None:
    """All of them installed together: each is listed, and nothing breaks."""
    for index, (source, _, options) in enumerate(FAULTS.values()):
        options = {**options, "module": f"luna_plugin_bad{index}"}
        site.install(f"bad{index}", source.replace("luna_plugin_bad", f"luna_plugin_bad{index}"), **options)
    listed = site.run("plugins", "--json")
    assert listed.returncode == 0, listed.stderr
    broken = {row["name"] for row in json.loads(listed.stdout)["plugins"] if row["state"] == "broken"}
    # one of the list is only broken when its module is missing or its requirement is broken; those two are whole here
    assert len(broken & {f"bad{i}" for i in range(len(FAULTS))}) >= len(FAULTS) - 2


def test_two_distributions_with_one_name(site: Any) -> None:
    site.install("twin", "", distribution="luna-plugin-twin", module="luna_plugin_twin")
    site.install("twin", "", distribution="somebody-elses-twin", module="twin2")
    row = next(r for r in json.loads(site.run("plugins", "--json").stdout)["plugins"] if r["name"] == "twin")
    assert row["state"] == "broken"
    assert "luna-plugin-twin" in row["reason"]
    assert "somebody-elses-twin" in row["reason"]
    named = site.run("plugins", "--plugins", "twin")
    assert named.returncode == 2
    assert "somebody-elses-twin" in named.stderr


def test_one_component_twice(site: Any) -> None:
    """The later one is left out with both names; naming one of them decides which one stays."""
    for name in ("alfa", "beta"):
        site.install(name, f"@hookimpl\ndef luna_add_layers(add):\n    add('ffn', 'moe', 'luna_plugin_{name}.x:Y')")
    states = {r["name"]: r for r in json.loads(site.run("plugins", "--json").stdout)["plugins"]}
    assert states["alfa"]["state"] == "on"
    reason = states["beta"]["reason"]
    assert "alfa (luna-plugin-alfa) and beta (luna-plugin-beta)" in reason
    preferred = site.run("plugins", "--json", "--plugins", "beta,all")
    states = {r["name"]: r["state"] for r in json.loads(preferred.stdout)["plugins"]}
    assert (states["beta"], states["alfa"]) == ("on", "broken")
    both = site.run("plugins", "--plugins", "alfa,beta")
    assert both.returncode == 2
    assert site.run("plugins", "--plugins", "alfa").returncode == 0


def test_output_at_import_does_not_spoil_json(site: Any) -> None:
    site.install("loud", "print('LOUD')")
    listed = site.run("plugins", "--json")
    assert json.loads(listed.stdout)["plugins"]
    assert "LOUD" in listed.stderr


def test_slow_and_heavy_plugins_are_named(site: Any) -> None:
    site.install("slow", "import time, pydantic; time.sleep(0.05)")
    row = next(r for r in json.loads(site.run("plugins", "--json").stdout)["plugins"] if r["name"] == "slow")
    assert row["state"] == "on"
    assert row["import_ms"] >= 50
    assert row["heavy_imports"] == ["pydantic"]
    assert "slow start" in site.run("plugins").stdout


# name: (target, config, files, what the complaint must match)
CHECKED: dict[str, tuple[str, str | None, dict[str, str], str]] = {
    "no module": ("luna_plugin_bad.layer:Layer", None, {}, r"could not be imported .*ModuleNotFoundError"),
    "no attribute": ("luna_plugin_bad.layer:Layr", None, {"layer.py": "x = 1"}, r"AttributeError"),
    "exits": ("luna_plugin_bad.layer:L", None, {"layer.py": "raise SystemExit(0)"}, r"SystemExit"),
    "no retriever": ("luna_plugin_bad.layer:L", None, {"layer.py": "class L: ..."}, r"is no .*Retriever"),
    "not callable": ("luna_plugin_bad.layer:x", None, {"layer.py": "x = 1"}, r"neither called nor made"),
    "config is no model": (
        "luna_plugin_bad.layer:Good",
        "luna_plugin_bad.config:C",
        {"config.py": "class C: ..."},
        r"no pydantic model",
    ),
    "config is loose": (
        "luna_plugin_bad.layer:Good",
        "luna_plugin_bad.config:C",
        {"config.py": "from pydantic import BaseModel\nclass C(BaseModel):\n    a: int = 1"},
        r"frozen=True",
    ),
    "config does not validate": (
        "luna_plugin_bad.layer:Good",
        "luna_plugin_bad.config:C",
        {
            "config.py": "from pydantic import BaseModel, ConfigDict, Field\nclass C(BaseModel):\n"
            "    model_config = ConfigDict(extra='forbid', frozen=True, validate_default=True)\n"
            "    top_k: int = Field(default=0, ge=1)\n"
        },
        r"defaults do not validate: .*top_k",
    ),
    "config raises": (
        "luna_plugin_bad.layer:Good",
        "luna_plugin_bad.config:C",
        {
            "config.py": "from pydantic import BaseModel, ConfigDict, model_validator\nclass C(BaseModel):\n"
            "    model_config = ConfigDict(extra='forbid', frozen=True)\n"
            "    @model_validator(mode='after')\n    def check(self):\n        raise KeyError('oops')\n"
        },
        r"KeyError: 'oops'",
    ),
}
RETRIEVER = "from luna_kernel.contracts.retrievers import Retriever\nclass Good(Retriever): ..."


@pytest.mark.parametrize("name", CHECKED)
def test_check_names_the_component(name: str, site: Any) -> None:
    """The plugin is on, since nothing of it was imported; `--check` imports and complains."""
    target, config, files, pattern = CHECKED[name]
    add = f"add('retriever', 'thing', {target!r}, config={config!r})"
    site.install(
        "bad",
        f"@hookimpl\ndef luna_add_retrievers(add):\n    {add}",
        files={"layer.py": RETRIEVER, **files} if name != "no module" else {},
    )
    assert site.run("plugins").returncode == 0
    checked = site.run("plugins", "--check", "--json", "--plugins", "bad")
    assert checked.returncode == 1, checked.stderr
    row = next(r for r in json.loads(checked.stdout)["plugins"] if r["name"] == "bad")
    assert row["state"] == "on"
    assert re.search(pattern, " ".join(row["complaints"])), row["complaints"]
    assert "thing" in row["complaints"][0]


def test_check_of_a_good_component(site: Any) -> None:
    config = (
        "from pydantic import BaseModel, ConfigDict\nclass C(BaseModel):\n"
        "    model_config = ConfigDict(extra='forbid', frozen=True)\n    url: str\n"
    )
    site.install(
        "fine",
        "@hookimpl\ndef luna_add_retrievers(add):\n"
        "    add('retriever', 'fine', 'luna_plugin_fine.r:Good', config='luna_plugin_fine.c:C')",
        files={"r.py": RETRIEVER, "c.py": config},
    )
    checked = site.run("plugins", "--check", "--json", "--plugins", "fine")
    rows = {r["name"]: r for r in json.loads(checked.stdout)["plugins"]}
    assert rows["fine"]["complaints"] == []
