"""From feedback to a new model: examples, the comparison, forgetting, and what cannot work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from luna_plugin_feedback.comparison import Scored, Scorer, compare
from luna_plugin_feedback.entry import Entry
from luna_plugin_feedback.examples import choose_method, examples, shortage, split
from luna_plugin_feedback.refine_cli import has_moved
from luna_plugin_feedback.refining import Plan, about, free_output, prepare, refine
from luna_plugin_feedback.store import opened

from luna_kernel.base.errors import UsageError
from luna_kernel.base.integrity import seal
from luna_kernel.cli.main import cli
from luna_kernel.contracts.data import Message
from luna_kernel.data.readers import JsonlReader
from luna_kernel.model.checkpoint import open_model
from luna_kernel.plugins.manifest import Manifest
from luna_kernel.train.console import QuietConsole

from .conftest import DIALOGUES, KNOWN, entry


def corrections() -> list[Entry]:
    """Of every answer of the dialogues a person wants the first sentence alone."""
    return [
        entry(question, answer, verdict="bad", correction=answer.partition(" Quer")[0], generator="luna")
        for question, answer in DIALOGUES
    ]


def plan(model: Path, tmp_path: Path, name: str, known: Path, **fields: object) -> Plan:
    made = Plan(model, tmp_path / name, "dpo", epochs=6, learning_rate=2e-3, beta=0.05, replay=(str(known),))
    return replace(made, **fields)  # type: ignore[arg-type]


# --- examples ------------------------------------------------------------------------------------------------------


def test_pairs_come_from_corrections_and_from_two_answers_to_one_prompt() -> None:
    found = examples(
        [
            entry(answer="a", correction="b"),
            entry("E?", "good one", verdict="good"),
            entry("E?", "bad one", ratings={"accurate": 1}),
            entry("F?", "liked", verdict="good"),  # another prompt: no pair
            entry("E?", "quoted", verdict="bad", generator="extractive"),
            entry("", "no question", correction="x"),
        ],
        "dpo",
    )
    assert [item.content for item in found] == [
        {"chosen": "b", "rejected": "a"},
        {"chosen": "good one", "rejected": "bad one"},
    ]


def test_the_later_judgement_of_an_answer_holds() -> None:
    judged = examples([entry(verdict="bad"), entry(verdict="good"), entry(text="hm", answer="x")], "kto")
    assert [item.content for item in judged] == [{"answer": "Olá.", "label": True}]


def test_single_judgements_and_answers_to_imitate() -> None:
    entries = [entry(answer="a", verdict="bad", correction="b"), entry("G?", "g", ratings={"helpful": 5})]
    labels = {item.content["answer"]: item.content["label"] for item in examples(entries, "kto")}
    assert labels == {"a": False, "b": True, "g": True}
    assert [item.content["answer"] for item in examples(entries, "sft")] == ["b", "g"]


@pytest.mark.parametrize("method", ["dpo", "kto", "sft"])
def test_lines_are_read_as_they_are_meant(method: str) -> None:
    prompt = ({"role": "system", "content": "S"}, {"role": "user", "content": "U"})
    (line, *_) = [item.to_line() for item in examples([Entry(prompt, "a", correction="b")], method)]
    (record,) = JsonlReader().read(line.encode(), "x.jsonl").records
    assert [message.role for message in record.messages] == ["system", "user", "assistant"]
    assert record.rejected == ("a" if method == "dpo" else None)
    assert record.desirable == (False if method == "kto" else None)


def test_answers_to_one_prompt_stay_on_one_side() -> None:
    entries = [entry(f"Q{n % 10}", f"a{n}", correction=f"b{n}") for n in range(40)]
    train, held_out = split(examples(entries, "dpo"), 0.2)
    assert len(train) + len(held_out) == 40
    assert not {item.prompt for item in train} & {item.prompt for item in held_out}
    assert len({item.prompt for item in held_out}) == 2
    assert split(examples(entries, "dpo"), 0.2) == (train, held_out)


def test_too_little_feedback_is_said_with_what_is_missing(tmp_path: Path, known: Path, plugins) -> None:
    few = corrections()[:7]
    with pytest.raises(UsageError) as raised:
        prepare(plan(tmp_path, tmp_path, "x", known, method="auto"), few, plugins)
    assert "7 of 10 pairs" in raised.value.text
    assert "At least 3 examples" in (raised.value.hint or "")
    assert shortage(examples(corrections(), "dpo"), "dpo") == 0
    assert shortage(examples([entry(f"{n}", verdict="good") for n in range(30)], "kto"), "kto") == 4
    assert choose_method({"dpo": 1, "kto": 0, "sft": 0}) == "kto"
    assert choose_method({"dpo": 1, "kto": 1, "sft": 1}) is None


def test_personal_data_is_not_learnt(tmp_path: Path, known: Path, plugins) -> None:
    entries = [replace(item, correction=f"{item.correction} ana@exemplo.com") for item in corrections()]
    material = prepare(plan(tmp_path, tmp_path, "x", known), entries, plugins)
    assert all("[E-MAIL]" in item.content["chosen"] for item in material.train + material.held_out)


def test_dialogues_with_a_judged_question_are_not_repeated(tmp_path: Path, known: Path, plugins) -> None:
    asked = KNOWN[0][0]
    material = prepare(plan(tmp_path, tmp_path, "x", known), [*corrections(), entry(asked, verdict="good")], plugins)
    repeated = {message.content for record in material.replay + material.known for message in record.messages}
    assert asked not in repeated
    assert KNOWN[1][0] in repeated


# --- comparison ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_are_those_of_the_model_token_by_token(model: Path) -> None:
    scorer = Scorer(open_model(model))
    messages = [Message("user", "Oi"), Message("assistant", "Um."), Message("user", "E?"), Message("assistant", "Sim")]
    found = scorer.nats(messages, last=True)
    assert found is not None
    prompt, _ = scorer.template.render(messages[:-1])
    ids, _ = scorer.template.render(messages)
    logits = scorer.model(torch.tensor([ids])).logits[0].detach().double()
    total = sum(
        float(torch.logsumexp(logits[place - 1], 0) - logits[place - 1, ids[place]])
        for place in range(len(prompt) + 1, len(ids))
    )
    assert found[0] == pytest.approx(total, rel=1e-5)
    assert found[1] == len(ids) - len(prompt) - 1
    assert scorer.nats([Message("user", "a " * 300), Message("assistant", "b")], last=True) is None


def test_a_comparison_counts_pairs_and_combinations() -> None:
    before, after = Scored([-1.0, -3.0], [-2.0, -2.0], 1.0, float("nan")), Scored([-1.0, -1.0], [-2.0, -2.0], 0.5, 2.0)
    paired = compare(before, after, paired=True)
    assert (paired["before"]["accuracy"], paired["after"]["accuracy"], paired["moved"]) == (0.5, 1.0, 0.5)
    assert paired["before"]["known_bits_per_byte"] is None
    assert compare(before, after, paired=False)["before"]["margin"] == pytest.approx(0.0)


# --- refinement ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "kto", "sft"])
def test_a_refined_model_prefers_what_people_want(
    method: str, model: Path, tmp_path: Path, known: Path, plugins
) -> None:
    before = seal(model)
    asked = plan(model, tmp_path, "new", known, method=method)
    report = refine(asked, corrections(), plugins=plugins, console=QuietConsole())
    found = report["comparison"]
    assert found["after"]["margin"] > found["before"]["margin"] + 0.2
    assert found["after"]["answers_bits_per_byte"] < found["before"]["answers_bits_per_byte"]
    assert seal(model) == before
    manifest = Manifest.read(tmp_path / "new")
    assert manifest.training["refined"]["method"] == method
    assert manifest.training["refined"]["from"] == model.name
    open_model(tmp_path / "new")
    with pytest.raises(UsageError, match="no model is replaced"):
        refine(asked, corrections(), plugins=plugins, console=QuietConsole())


@pytest.mark.slow
def test_repeating_older_dialogues_makes_forgetting_smaller(model: Path, tmp_path: Path, known: Path, plugins) -> None:
    """Strong refinement, measured on dialogues that neither run was trained on after the start."""
    reports = {}
    for name, repeats in (("mixed", True), ("alone", False)):
        asked = plan(model, tmp_path, name, known, beta=0.01, learning_rate=4e-3)
        reports[name] = refine(asked, corrections(), plugins=plugins, console=QuietConsole(), repeats=repeats)
    lost = {
        name: found["comparison"]["after"]["known_bits_per_byte"] - found["comparison"]["before"]["known_bits_per_byte"]
        for name, found in reports.items()
    }
    assert lost["mixed"] < lost["alone"]
    assert reports["mixed"]["replay"] + 3 == len(KNOWN)


LORA = {"name": "lora"}


@pytest.mark.slow
def test_adapters_learn_and_give_a_plain_model(model: Path, tmp_path: Path, known: Path, plugins) -> None:
    asked = plan(model, tmp_path, "light", known, lightweight=True, adapter=LORA)
    report = refine(asked, corrections(), plugins=plugins, console=QuietConsole())
    assert report["comparison"]["after"]["margin"] > report["comparison"]["before"]["margin"] + 0.2
    old, new = open_model(model).model.state_dict(), open_model(tmp_path / "light").model.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved == {name for name in old if name.startswith("blocks.") and "norm" not in name}
    assert list(old) == list(new)


@pytest.mark.slow
def test_freezing_leaves_the_lower_half_as_it_was(model: Path, tmp_path: Path, known: Path, plugins) -> None:
    asked = plan(model, tmp_path, "frozen", known, callbacks=({"name": "freeze", "share": 0.5},))
    refine(asked, corrections(), plugins=plugins, console=QuietConsole())
    old, new = open_model(model).model, open_model(tmp_path / "frozen").model
    same = {name for name, weight in old.state_dict().items() if torch.equal(weight, new.state_dict()[name])}
    lower = {name for name, _ in old.named_parameters() if name.startswith(("blocks.0.", "embedding."))}
    upper = {name for name, _ in old.named_parameters() if name.startswith("blocks.1.") and "norm" not in name}
    assert lower <= same
    assert not upper & same


@pytest.mark.slow
def test_the_verb_makes_a_model_and_says_what_it_came_to(model: Path, known: Path, home: Path) -> None:
    runner = CliRunner()
    arguments = ["refine", "--plugins", "feedback", "--model", str(model), "--replay", str(known), "--epochs", "1"]
    empty = runner.invoke(cli, arguments)
    assert empty.exit_code == 2
    assert "too little" in empty.output
    with opened() as store:
        for item in corrections():
            store.add(item)
    first = runner.invoke(cli, arguments)
    assert first.exit_code == 0, first.output
    assert "margin, nats per token" in first.output
    second = runner.invoke(cli, [*arguments, "--method", "sft", "--json"])
    report = json.loads(second.stdout.splitlines()[-1])
    assert Path(report["folder"]).name == f"{model.name}-refined-2"
    assert (home / "data" / "models" / f"{model.name}-refined" / "luna.json").is_file()
    taken = runner.invoke(cli, [*arguments, "--output", f"{model.name}-refined"])
    assert taken.exit_code == 2
    assert "is there already" in taken.output


@pytest.mark.slow
@pytest.mark.parametrize("light", [False, True])
def test_a_killed_refinement_goes_on_to_the_same_bits(
    light: bool, model: Path, tmp_path: Path, known: Path, home: Path, plugins
) -> None:
    """Killed after a checkpoint and called again: the model of a run that nobody disturbed."""
    with opened() as store:
        for item in corrections():
            store.add(item)
        entries = store.entries()
    whole = tmp_path / "whole"
    asked = plan(model, tmp_path, "whole", known, epochs=40.0)
    if light:
        asked = replace(asked, lightweight=True, adapter=LORA)
    refine(asked, entries, plugins=plugins, console=QuietConsole())
    cut = home / "data" / "models" / "cut"
    command = [
        sys.executable, "-m", "luna_kernel", "refine", "--plugins", "feedback", "--model", str(model),
        "--output", "cut", "--method", "dpo", "--epochs", "40", "--learning-rate", "2e-3", "--beta", "0.05",
        "--replay", str(known), *["--lightweight"] * light,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = home / "data" / "runs" / "refine-cut"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(run.glob("checkpoints/*")):
        assert process.poll() is None, "it ended before its first checkpoint"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not cut.exists()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "Going on" in done.stderr
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_only_feedback_about_the_model_counts(model: Path) -> None:
    named = [entry(f"Q{place}?", model=name) for place, name in enumerate(["", model.name, str(model), "other"])]
    assert about(named, model, "alias") == named[:3]
    assert about([entry(model="alias")], model, "alias")


def test_feedback_about_other_models_is_left_out_and_said(model: Path) -> None:
    with opened() as store:
        for item in corrections():
            store.add(replace(item, model="another"))
    arguments = ["refine", "--plugins", "feedback", "--model", str(model)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert f"left out: {len(DIALOGUES)}" in done.output


def test_the_demo_model_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of `luna run` name it `demo`, wherever in the cache it lies."""
    monkeypatch.setenv("LUNA_HOME", str(tmp_path))
    folder = tmp_path / "cache" / "demo" / "0123456789abcdef"
    folder.mkdir(parents=True)
    entries = [replace(entry("oi", "olá", verdict="good"), model=name) for name in ("demo", "other")]
    assert [found.model for found in about(entries, folder, str(folder))] == ["demo"]
    assert free_output(folder).name == "demo-refined"


@pytest.mark.parametrize(
    ("key", "after", "moved"),
    [("accuracy", 0.5, False), ("accuracy", 0.6, True), ("margin", -6.95, False), ("margin", -6.8, True),
     ("answers_bits_per_byte", 3.5, False), ("answers_bits_per_byte", 3.0, True)],
)  # fmt: skip
def test_little_is_called_little(key: str, after: float, moved: bool) -> None:
    before = {"accuracy": 0.5, "margin": -7.0, "answers_bits_per_byte": 3.6}
    assert has_moved({"before": before, "after": {**before, key: after}}) is moved
    alone = {"accuracy": None, "margin": None, "answers_bits_per_byte": 3.6}  # without pairs
    assert not has_moved({"before": alone, "after": alone})
