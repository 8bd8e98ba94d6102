"""Configurations from files, and the keys of the MoC seed's example."""

import json

import pytest

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.registry import Component, Registry
from luna_kernel.train.seed_config import load_config

SEED = """\
# config_moc.yaml
model:
  d_model: 768
  n_layers: 12
  n_heads: 12
  n_kv_heads: 12
  vocab_size: 50257
  max_seq_len: 1024
  # --- Parâmetros do MoC ---
  n_experts: 8          # Número total de experts a serem criados
  top_k: 2              # Número de experts a serem selecionados para colaboração
  aux_loss_weight: 0.01 # Peso da perda auxiliar (balanceamento + diversidade)

data_dir: "data/"
out_dir: "checkpoints/lunaris-moc-8e-2k"
learning_rate: 3.0e-4
max_steps: 600000
batch_size: 16
gradient_accumulation_steps: 4
wandb_project: "lunaris-codex-moc"
wandb_run_name: "moc-8-experts-2-topk"
"""


@pytest.fixture
def registry():
    return load_plugins("none").registry


@pytest.fixture
def read(tmp_path, registry):
    def load(text, name="c.yaml", **overrides):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_config(path, registry, overrides)

    return load


def test_the_seeds_example_is_read_whole(read):
    loaded = read(SEED)
    config = loaded.config
    assert config.new_model.dims == {
        "d_model": 768,
        "num_layers": 12,
        "num_heads": 12,
        "num_kv_heads": 12,
        "head_dim": 64,
        "ffn_dim": 2048,
        "max_positions": 1024,
    }
    assert config.new_model.components == ("moc",)
    moc = config.new_model.configs["moc"]
    assert (moc["num_experts"], moc["top_k"], moc["balance_weight"], moc["context"]) == (8, 2, 0.01, "full")
    assert (config.vocab_size, config.sequence_length) == (50257, 1024)
    assert (config.train_data, str(config.run_dir)) == (("data/",), "checkpoints/lunaris-moc-8e-2k")
    assert (config.learning_rate, config.max_steps, config.batch_size, config.accumulate) == (3e-4, 600_000, 16, 4)
    (remark,) = loaded.remarks
    assert "wandb_project, wandb_run_name" in remark
    assert "no plugin" in remark


def test_the_components_keys_are_the_plugins(read):
    """The mapping is data; this holds it to the plugin that it speaks of, where that is installed."""
    plugins = load_plugins("all")
    component = plugins.registry.find("ffn", "moc")
    if component is None:
        pytest.skip("the plugin is not installed")
    component.make_config(read(SEED).config.new_model.configs["moc"])


def test_an_installed_tracker_gets_its_keys(tmp_path, registry):
    with_tracker = Registry()
    for item in registry:
        with_tracker.add(item)
    with_tracker.add(Component("tracker", "wandb", "x:y", "w", "luna-plugin-w", "1"))
    path = tmp_path / "c.yaml"
    path.write_text(SEED)
    loaded = load_config(path, with_tracker)
    assert loaded.remarks == ()
    assert loaded.config.trackers == (
        {"name": "wandb", "project": "lunaris-codex-moc", "run_name": "moc-8-experts-2-topk"},
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "nearest"),
    [
        ("n_experts: 8", "n_expert: 8", 10, "n_experts"),
        ("learning_rate:", "learning_rat:", 16, "learning_rate"),
        ("gradient_accumulation_steps", "gradient_acumulation_steps", 19, "gradient_accumulation_steps"),
        ("d_model", "dmodel", 3, "d_model"),
    ],
)
def test_unknown_keys_are_refused_with_line_and_nearest(read, old, new, line, nearest):
    with pytest.raises(ConfigError) as caught:
        read(SEED.replace(old, new))
    assert f"line {line}:" in str(caught.value)
    assert f"{nearest}?" in str(caught.value).replace("'", "").replace("“", "").replace("”", "")


def test_component_keys_without_their_component(read):
    with pytest.raises(ConfigError, match="n_experts"):
        read(SEED.replace("  n_experts: 8", "  #"))


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("a: [1", "c.yaml", "not valid"),
        ("run_dir: a\nrun_dir: b\n", "c.yaml", "twice"),
        ("- 1\n", "c.yaml", "keys and values"),
        ("!!python/object/apply:os.system [ls]", "c.yaml", "not valid"),
        ("run_dir = ", "c.toml", "not valid"),
        ("x", "c.ini", ".yaml"),
        ("run_dir: a\ntrain_data: [b]\nlerning_rate: 1\n", "c.yaml", "line 3"),
        ("run_dir: a\ntrain_data: [b]\nlearning_rate: muito\n", "c.yaml", "learning_rate"),
        (SEED.replace("n_heads: 12", "n_heads: 7"), "c.yaml", "7 heads"),
    ],
)
def test_bad_files_say_why(read, text, name, reason):
    with pytest.raises(UsageError, match=reason):
        read(text, name)


def test_missing_file(tmp_path, registry):
    with pytest.raises(UsageError, match="does not exist"):
        load_config(tmp_path / "nada.yaml", registry)


def test_lunas_own_keys_in_every_format(read):
    fields = {
        "run_dir": "r",
        "train_data": ["d"],
        "learning_rate": 3e-4,
        "optimizer": {"name": "muon", "momentum": 0.9},
    }
    for name, text in (
        ("c.json", json.dumps(fields)),
        (
            "c.toml",
            'run_dir = "r"\ntrain_data = ["d"]\nlearning_rate = 3e-4\noptimizer = {name = "muon", momentum = 0.9}\n',
        ),
        ("c.yaml", "run_dir: r\ntrain_data: d\nlearning_rate: 3e-4\noptimizer: {name: muon, momentum: 0.9}\n"),
    ):
        config = read(text, name).config
        assert (config.learning_rate, config.train_data, config.optimizer["momentum"]) == (3e-4, ("d",), 0.9)


def test_overrides_win(read):
    assert read("run_dir: a\ntrain_data: b\nepochs: 2\n", epochs=5, seed=None).config.epochs == 5
