"""Proposals are said with their reason, and taken only with `--adapt`; settings of one's own come first."""

from types import SimpleNamespace

import pytest

from luna_kernel.cli import adapting
from luna_kernel.cli.adapting import Opening, plan_opening
from luna_kernel.contracts.backends import Proposal


@pytest.fixture
def app():
    said = []
    return SimpleNamespace(say=said.append, said=said)


@pytest.fixture
def proposed(monkeypatch):
    changes = [("low_memory", True, "too large"), ("cache_limit", 512, "long"), ("precision", "fp32", "slow")]
    changes.append(("experts_per_token", 1, "slow memory"))
    found = [Proposal(*given) for given in changes]
    monkeypatch.setattr(adapting, "proposals", lambda *_: found)
    return found


def settings(low_memory=None, cache_limit=None, experts_per_token=None):
    return SimpleNamespace(low_memory=low_memory, cache_limit=cache_limit, experts_per_token=experts_per_token)


def test_only_said(app, proposed, tmp_path):
    assert plan_opening(app, settings(), tmp_path, "cpu", adapt=False) == Opening()
    assert len(app.said) == 4
    assert all("--adapt" in line and one.reason in line for line, one in zip(app.said, proposed, strict=True))


def test_taken_and_said(app, proposed, tmp_path):
    assert plan_opening(app, settings(), tmp_path, "cpu", adapt=True) == Opening(True, 512, "fp32", 1)
    assert all(one.reason in line for line, one in zip(app.said, proposed, strict=True))


def test_what_was_set_by_hand_stays(app, proposed, tmp_path):
    found = plan_opening(app, settings(False, 64, 2), tmp_path, "cpu", adapt=True)
    assert found == Opening(False, 64, "fp32", 2)
    assert len(app.said) == 1


def test_nothing_to_do_is_said(app, monkeypatch, tmp_path):
    monkeypatch.setattr(adapting, "proposals", lambda *_: [])
    assert plan_opening(app, settings(), tmp_path, "cpu", adapt=True) == Opening()
    assert len(app.said) == 1
    plan_opening(app, settings(), tmp_path, "cpu", adapt=False)
    assert len(app.said) == 1
