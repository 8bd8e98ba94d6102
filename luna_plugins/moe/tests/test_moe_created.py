"""`luna create --set`: the fields of the experts and of their router."""

import json

import pytest
from click.testing import CliRunner

from luna_kernel.cli.main import cli


@pytest.fixture
def create(tmp_path, monkeypatch):
    """create("moe.top_k=1", …) -> (result, the feed-forward node of the second block or None)."""
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "en")

    def run(*fields):
        options = [part for field in fields for part in ("--set", field)]
        line = ["create", "--name", "m", "--replace", "--plugins", "moe", "--preset", "mini", "--vocab-size", "300"]
        done = CliRunner().invoke(cli, [*line, *options])
        manifest = tmp_path / "home" / "data" / "models" / "m" / "luna.json"
        made = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else None
        return done, made and made["blueprint"]["blocks"][1]["ffn"]

    return run


def test_an_emotional_router_with_a_head(create):
    done, node = create("moe.router=emotional", "moe.router.head=true", "moe.router.rank=3", "moe.num_experts=4")
    assert done.exit_code == 0, done.output
    assert node["num_experts"] == 4
    assert {key: node["router"][key] for key in ("name", "head", "rank")} == {
        "name": "emotional", "head": True, "rank": 3,
    }  # fmt: skip


def test_fields_of_the_default_router(create):
    done, node = create("moe.router.scores=sigmoid", "moe.top_k=1")
    assert done.exit_code == 0, done.output
    assert node["router"] == {"name": "topk", "scores": "sigmoid"}
    assert node["top_k"] == 1


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("moe.router=emotionl", ["blocks.1.ffn.router", "“emotional”?", "topk, emotional, hash"]),
        ("moe.router.hed=true", ["blocks.1.ffn.router", "hed", "scores"]),
        ("moe.balance=swich", ["bias, switch, none", "“switch”?"]),
        ("moe.top_k=9", ["only 8 experts"]),
        ("moe.routr=hash", ["“router”?", "num_experts"]),
    ],
)
def test_bad_fields(create, field, words):
    done, node = create(field)
    assert done.exit_code == 2
    assert node is None
    for word in words:
        assert word in done.output
