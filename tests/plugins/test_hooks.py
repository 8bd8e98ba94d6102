"""Every hook: what adds is collected with its kinds, what tells gets its arguments, and failures are contained."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from luna_kernel.base.errors import PluginError
from luna_kernel.plugins import hookspecs, load_plugins
from luna_kernel.plugins.kinds import HOOK_KINDS, KINDS

ADDING = [
    "luna_add_layers",
    "luna_add_routers",
    "luna_add_retrievers",
    "luna_add_personas",
    "luna_add_callbacks",
    "luna_add_backends",
    "luna_add_data",
    "luna_add_training",
    "luna_add_evaluation",
    "luna_add_export",
    "luna_add_chat",
    "luna_add_models",
    "luna_add_commands",
]
TELLING = {
    "luna_train_start": {"run": 1},
    "luna_train_stage_start": {"run": 1, "stage": 2},
    "luna_train_step_end": {"run": 1, "metrics": {"loss": 2.0}},
    "luna_train_eval_end": {"run": 1, "metrics": {"valid/bits_per_byte": 2.0}},
    "luna_train_should_stop": {"run": 1},
    "luna_train_checkpoint_save": {"run": 1, "state": {}},
    "luna_train_checkpoint_load": {"run": 1, "state": {}},
    "luna_train_checkpoint_saved": {"run": 1, "path": "x"},
    "luna_train_end": {"run": 1, "reason": "done"},
    "luna_chat_start": {"session": 1},
    "luna_chat_turn_end": {"session": 1, "turn": 2},
    "luna_chat_feedback": {"session": 1, "turn": 2, "feedback": {"score": 1}},
    "luna_chat_end": {"session": 1},
    "luna_check_config": {"config": {"lr": 1}},
    "luna_doctor": {},
}


def specs() -> dict[str, Any]:
    return {name: value for name, value in vars(hookspecs).items() if name.startswith("luna_")}


def test_this_file_knows_every_hook() -> None:
    assert set(specs()) == set(ADDING) | set(TELLING)
    assert set(ADDING) == set(HOOK_KINDS)
    assert len(KINDS) == len(set(KINDS))
    for name, arguments in TELLING.items():
        assert list(inspect.signature(specs()[name]).parameters) == list(arguments)


@pytest.mark.parametrize("hook", ADDING)
def test_adding(hook: str, here: Any) -> None:
    """A component of each of the hook's kinds arrives in the registry as it was given, and nothing was imported."""
    lines = "\n    ".join(
        f"add({kind!r}, 'thing', 'not_there.module:Thing', config='not_there.config:C', version=3, oldest=2, "
        "help='A thing', place='every block', default={'a': 1})"
        for kind in HOOK_KINDS[hook]
    )
    here.install("maker", f"@hookimpl\ndef {hook}(add):\n    {lines}")
    plugins = load_plugins("maker")
    for kind in HOOK_KINDS[hook]:
        component = plugins.registry.get(kind, "thing")
        assert (component.plugin, component.distribution) == ("maker", "luna-plugin-maker")
        assert (component.target, component.config) == ("not_there.module:Thing", "not_there.config:C")
        assert (component.help, component.place, component.default) == ("A thing", "every block", {"a": 1})
        assert [component.opens(version) for version in (1, 2, 3, 4)] == [False, True, True, False]
        with pytest.raises(PluginError, match="not_there"):
            component.load()
    assert len(plugins.registry.of_plugin("maker")) == len(HOOK_KINDS[hook])


@pytest.mark.parametrize("hook", TELLING)
def test_telling(hook: str, here: Any) -> None:
    """All plugins are called with the arguments that they ask for; answers come back, None is no answer."""
    arguments = TELLING[hook]
    names = ", ".join(arguments)
    here.install("full", f"@hookimpl\ndef {hook}({names}):\n    return ['full', {names}]")
    here.install("short", f"@hookimpl\ndef {hook}():\n    return ['short']")
    here.install("mute", f"@hookimpl\ndef {hook}():\n    return None")
    plugins = load_plugins("full,short,mute")
    answers = plugins.tell(hook, **arguments)
    assert sorted(answers, key=lambda answer: answer[0]) == [["full", *arguments.values()], ["short"]]
    assert plugins.tell_by_plugin(hook, **arguments)["short"] == ["short"]
    assert plugins.first(hook, **arguments) in answers
    assert load_plugins("none").first(hook, **arguments) is None


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(0)", "class B(BaseException): ...\n    raise B"])
@pytest.mark.parametrize("hook", TELLING)
def test_a_failing_observer(hook: str, fault: str, here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is logged with its name, the others are called and the run goes on; a critical one stops it."""
    source = f"@hookimpl\ndef {hook}():\n    {fault}"
    here.install("failing", source)
    here.install("fine", f"@hookimpl\ndef {hook}():\n    return 'fine'")
    assert load_plugins("failing,fine").tell(hook, **TELLING[hook]) == ["fine"]
    said = capsys.readouterr().err
    assert "failing" in said
    assert hook in said
    here.install("critical", f"LUNA_CRITICAL = True\n{source}")
    with pytest.raises(PluginError, match=f"“critical” failed in {hook}"):
        load_plugins("critical,fine").tell(hook, **TELLING[hook])


def test_ctrl_c_in_a_hook_is_no_failure(here: Any) -> None:
    here.install("stop", "@hookimpl\ndef luna_doctor():\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins("stop").tell("luna_doctor")


def test_trace(site: Any) -> None:
    """LUNA_TRACE_PLUGINS=1 prints every call with its plugin and milliseconds, on stderr."""
    site.install("seen", "@hookimpl\ndef luna_add_layers(add): ...\n@hookimpl\ndef luna_doctor(): ...")
    done = site.run("doctor", "--plugins", "seen", env={"LUNA_TRACE_PLUGINS": "1"})
    for hook in ("luna_add_layers", "luna_doctor"):
        assert any("seen" in line and hook in line and line.endswith(" ms") for line in done.stderr.splitlines())
    assert "[luna plugins]" not in site.run("doctor", env={"LUNA_TRACE_PLUGINS": "0"}).stderr


def test_doctor_reports(site: Any) -> None:
    site.install("medic", "@hookimpl\ndef luna_doctor():\n    return {'pulse': 60, 'faults': ['no fever thermometer']}")
    done = site.run("doctor", "--plugins", "medic")
    assert done.returncode == 1
    assert "medic: pulse = 60" in done.stdout
    assert "medic: no fever thermometer" in done.stdout
