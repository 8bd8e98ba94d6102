"""Saving and opening: whole or not at all, strict, without copies."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from luna_kernel.base import integrity
from luna_kernel.base.errors import IntegrityError, MissingPluginsError, UsageError
from luna_kernel.model.attention import Attention
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import open_model, save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.weights_file import TYPES, read_weights, write_weights

pytestmark = pytest.mark.usefixtures("english")


@pytest.fixture
def english(monkeypatch):
    monkeypatch.setenv("LUNA_LANG", "en")


def logits(model):
    with torch.no_grad():
        return model(torch.arange(20).view(2, 10)).logits


@pytest.fixture
def saved(tmp_path, model, kernel):
    save_model(tmp_path / "m", model, plugins=kernel, extra={"chat": {"persona": "formal"}, "note": 1})
    return tmp_path / "m"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_equal(tmp_path, blueprint, kernel, tied, dtype):
    blueprint = dataclasses.replace(blueprint, tie_embeddings=tied)
    model = Decoder(blueprint, kernel.registry).to(dtype).eval()
    save_model(tmp_path / "m", model, plugins=kernel)
    opened = open_model(tmp_path / "m", selection="none")
    assert torch.equal(logits(opened.model), logits(model))
    assert next(opened.model.parameters()).dtype == dtype
    assert not opened.model.training
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert ("head.weight" in file.keys()) == (not tied)  # noqa: SIM118  not a mapping


def test_manifest_comes_from_the_live_model(saved, model):
    manifest = json.loads((saved / "luna.json").read_text())
    assert list(manifest["files"]) == ["model.safetensors"]
    assert manifest["files"]["model.safetensors"]["sha256"] == integrity.hash_file(saved / "model.safetensors")
    assert manifest["blueprint"]["blocks"][0]["mixer"] == {
        "name": "attention", "qk_norm": False, "window": None, "sinks": 0, "qkv_bias": False,
            "out_bias": False,
    }  # fmt: skip
    by_name = {c["name"]: c for c in manifest["components"]}
    assert set(by_name) == {"attention", "swiglu", "rope"}
    assert by_name["swiglu"]["places"] == ["blocks.0.ffn", "blocks.1.ffn"]
    total = sum(p.numel() for p in model.parameters())
    assert by_name["swiglu"]["weight_share"] == pytest.approx(2 * 3 * 32 * 48 / total, abs=1e-6)
    assert manifest["chat"] == {"persona": "formal"}
    assert manifest["note"] == 1


def test_weights_are_mapped_and_the_file_is_safe_from_writes(saved):
    before = integrity.hash_file(saved / "model.safetensors")
    opened = open_model(saved, selection="none")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(saved / "model.safetensors") in maps.read_text()
    with torch.no_grad():
        for weight in opened.model.parameters():
            weight.add_(1)
    assert integrity.hash_file(saved / "model.safetensors") == before


def test_saving_over_a_model_that_is_open(saved, kernel):
    opened = open_model(saved, selection="none")
    expected = logits(opened.model)
    save_model(saved, opened.model, plugins=kernel)
    assert torch.equal(logits(opened.model), expected)
    assert torch.equal(logits(open_model(saved, selection="none").model), expected)


def test_another_type_on_opening(saved):
    opened = open_model(saved, selection="none", dtype=torch.bfloat16)
    assert {p.dtype for p in opened.model.parameters()} == {torch.bfloat16}


def test_a_flipped_bit_is_found(saved):
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-7] ^= 4
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        open_model(saved, selection="none")
    open_model(saved, selection="none", verify=False)


def test_torn_or_absent(saved, tmp_path):
    with pytest.raises(UsageError):
        open_model(tmp_path / "nothing")
    (saved / "luna.json").unlink()
    with pytest.raises(UsageError):
        open_model(saved)


def rewrite(folder: Path, change) -> None:
    """Change the weights as somebody with an editor would, hashes included."""
    weights = {n: v.clone() for n, v in read_weights(folder / "model.safetensors").items()}
    change(weights)
    write_weights(folder / "model.safetensors", weights)
    manifest = json.loads((folder / "luna.json").read_text())
    manifest["files"] = integrity.seal(folder, exclude=["luna.json"])
    (folder / "luna.json").write_text(json.dumps(manifest))


def test_strict_loading_names_component_and_place(saved):
    def change(weights):
        del weights["blocks.1.mixer.qkv.weight"]
        weights["blocks.0.ffn.gate.weight"] = torch.zeros(3)
        weights["norm.weight"] = torch.zeros(5)

    rewrite(saved, change)
    with pytest.raises(IntegrityError) as caught:
        open_model(saved, selection="none")
    text = caught.value.text
    assert "missing: blocks.1.mixer.qkv.weight (mixer “attention” at blocks.1.mixer)" in text
    assert "unexpected: blocks.0.ffn.gate.weight (ffn “swiglu” at blocks.0.ffn)" in text
    assert "norm.weight (the decoder itself): has shape [5], should have [32]" in text


def test_not_a_safetensors_file(saved):
    (saved / "model.safetensors").write_bytes(b"no")
    manifest = json.loads((saved / "luna.json").read_text())
    manifest["files"] = integrity.seal(saved, exclude=["luna.json"])
    (saved / "luna.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="cannot be read"):
        open_model(saved, selection="none")


def test_missing_plugin(saved):
    manifest = json.loads((saved / "luna.json").read_text())
    manifest["components"][1] |= {"kind": "ffn", "name": "nowhere", "plugin": "nix", "distribution": "luna-plugin-nix"}
    (saved / "luna.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingPluginsError, match="nowhere"):
        open_model(saved)


def test_old_version_is_migrated(saved, kernel, monkeypatch):
    """A component renamed a weight and a field in its version 2."""
    expected = logits(open_model(saved, selection="none").model)
    manifest = json.loads((saved / "luna.json").read_text())
    for block in manifest["blueprint"]["blocks"]:
        block["mixer"]["qk_normalise"] = block["mixer"].pop("qk_norm")
    for record in manifest["components"]:
        record["version"] = 1 if record["name"] == "attention" else record["version"]
    (saved / "luna.json").write_text(json.dumps(manifest))

    def rename(weights):
        for i in range(2):
            weights[f"blocks.{i}.mixer.fused.weight"] = weights.pop(f"blocks.{i}.mixer.qkv.weight")

    rewrite(saved, rename)

    def migrate(cls, weights, node, from_version):
        assert from_version == 1
        weights["qkv.weight"] = weights.pop("fused.weight")
        return weights, {**{k: v for k, v in node.items() if k != "qk_normalise"}, "qk_norm": node["qk_normalise"]}

    find = type(kernel.registry).find

    def newer(self, kind, name):
        found = find(self, kind, name)
        return dataclasses.replace(found, version=2, oldest=1) if name == "attention" else found

    monkeypatch.setattr(type(kernel.registry), "find", newer)
    with pytest.raises(UsageError, match="brings no migration"):
        open_model(saved, selection="none")
    monkeypatch.setattr(Attention, "migrate", classmethod(migrate), raising=False)
    assert torch.equal(logits(open_model(saved, selection="none").model), expected)


def test_extra_cannot_claim_the_manifests_keys(tmp_path, model, kernel):
    with pytest.raises(ValueError, match="files"):
        save_model(tmp_path / "m", model, plugins=kernel, extra={"files": {}})
    assert not (tmp_path / "m").exists()


def test_blueprint_of_the_manifest_builds_the_same_model(saved, model, kernel):
    manifest = json.loads((saved / "luna.json").read_text())
    rebuilt = Decoder(Blueprint.from_json(manifest["blueprint"]), kernel.registry)
    assert rebuilt.resolved_blueprint == model.resolved_blueprint


def test_the_library_reads_what_we_write(tmp_path):
    weights = {f"ção.{i}": torch.arange(i % 5 * 3).to(dtype).view(-1, 3) for i, dtype in enumerate(TYPES)}
    weights |= {"scalar": torch.tensor(2.5), "turned": torch.arange(6).view(2, 3).t(), "none": torch.zeros(0, 4)}
    write_weights(tmp_path / "w", weights, {"note": "olá"})
    found = read_weights(tmp_path / "w")
    assert set(found) == set(weights)
    for name, value in weights.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
        assert found[name].data_ptr() % value.element_size() == 0
    with safe_open(tmp_path / "w", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "olá"}
    with pytest.raises(ValueError, match="complex"):
        write_weights(tmp_path / "x", {"c": torch.zeros(1, dtype=torch.complex64)})
