"""Luna's decoder is transformers' Llama, Mistral, Qwen2 and Qwen3: same weights, same logits."""

import copy

import pytest
import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import load_weights
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.llama import (
    blueprint_from_llama,
    config_to_llama,
    weights_from_llama,
    weights_to_llama,
)

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16, "rope_theta": 5000.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}
CASES = {
    "multi-head, tied": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "multi-head, untied": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "grouped, tied": ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "grouped, untied": ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "one key head": ("Llama", {"num_key_value_heads": 1}),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads": ("Llama", {"head_dim": 32}),
    "llama3 scaling": ("Llama", {"rope_parameters": LLAMA3}),
    "linear scaling": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "yarn scaling": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 7}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 24}),
}


def build(family: str, options: dict):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **options)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():  # norms and biases are trivial at birth, and would hide a mix-up
            weight += 0.1 * torch.randn_like(weight)
    return config.to_dict(), theirs


def take_over(config, theirs, registry) -> Decoder:
    blueprint = blueprint_from_llama(config)
    with torch.device("meta"):
        model = Decoder(blueprint, registry)
    state = {n: v for n, v in theirs.state_dict().items() if not (blueprint.tie_embeddings and n == "lm_head.weight")}
    load_weights(model, weights_from_llama(state, blueprint), where="test")
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_logits(case, kernel):
    config, theirs = build(*CASES[case])
    model = take_over(config, theirs, kernel.registry)
    tokens = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=1e-4)
        state = model.make_state(3, 40)
        pieces = [tokens[:, :11], tokens[:, 11:25], *tokens[:, 25:].split(1, 1)]
        cached = torch.cat([model(piece, state=state).logits for piece in pieces], 1)
    torch.testing.assert_close(cached, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_bit_equal(case, kernel):
    config, theirs = build(*CASES[case])
    model = take_over(config, theirs, kernel.registry)
    blueprint = model.resolved_blueprint
    state = weights_to_llama(model.state_dict(), blueprint)
    expected = theirs.state_dict()
    if blueprint.tie_embeddings:
        expected.pop("lm_head.weight")
    assert sorted(state) == sorted(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    exported = config_to_llama(blueprint)
    again = Decoder(blueprint_from_llama(exported), kernel.registry).resolved_blueprint
    assert again.to_json() == blueprint.to_json()
    family = exported["architectures"][0].removesuffix("ForCausalLM")
    made = getattr(transformers, f"{family}Config")(**exported)
    assert made.to_dict()["rms_norm_eps"] == config["rms_norm_eps"]
    theirs_again = getattr(transformers, f"{family}ForCausalLM")(made).eval()
    theirs_again.load_state_dict(expected, strict=not blueprint.tie_embeddings)
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs_again(tokens).logits, theirs(tokens).logits, rtol=0, atol=1e-5)


def test_left_padding_as_transformers(kernel):
    config, theirs = build("Llama", {"num_key_value_heads": 2})
    model = take_over(config, theirs, kernel.registry)
    tokens = torch.arange(20).view(2, 10)
    segments = torch.ones(2, 10, dtype=torch.int64)
    segments[1, :4] = 0
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=segments, position_ids=(segments.cumsum(1) - 1).clamp(min=0)).logits
        actual = model(tokens, segments).logits
    torch.testing.assert_close(actual[segments > 0], expected[segments > 0], rtol=0, atol=1e-4)


class TestNothingIsDropped:
    config = {**SIZES, "model_type": "llama", "tie_word_embeddings": True}

    @pytest.fixture
    def state(self, kernel):
        blueprint = blueprint_from_llama(self.config)
        return weights_to_llama(Decoder(blueprint, kernel.registry).state_dict(), blueprint)

    @pytest.mark.parametrize(
        "change",
        [
            {"model_type": "gemma"},
            {"hidden_act": "gelu"},
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}},
            {"some_new_option": 3},
            {"layer_types": ["chunked_attention"] * 3},
        ],
        ids=str,
    )
    def test_config(self, change):
        with pytest.raises(UsageError):
            blueprint_from_llama({**self.config, **change})

    def test_config_lacks_a_key(self):
        with pytest.raises(UsageError, match="hidden_size"):
            blueprint_from_llama({k: v for k, v in self.config.items() if k != "hidden_size"})

    def test_weights(self, state):
        blueprint = blueprint_from_llama(self.config)
        wrong = copy.copy(state)
        del wrong["model.layers.1.mlp.up_proj.weight"]
        wrong["model.layers.0.self_attn.q_norm.weight"] = torch.zeros(16)
        wrong["model.norm.weight"] = torch.zeros(3)
        with pytest.raises(UsageError) as caught:
            weights_from_llama(wrong, blueprint)
        for name in ("layers.1.mlp.up_proj", "layers.0.self_attn.q_norm", "model.norm"):
            assert name in caught.value.text

    def test_a_different_head_beside_a_tied_embedding(self, state):
        blueprint = blueprint_from_llama(self.config)
        same = {**state, "lm_head.weight": state["model.embed_tokens.weight"]}
        assert "head.weight" not in weights_from_llama(same, blueprint)
        with pytest.raises(UsageError):
            weights_from_llama({**state, "lm_head.weight": torch.zeros(97, 64)}, blueprint)

    def test_export_of_what_is_not_plain(self, kernel):
        blueprint = Decoder(blueprint_from_llama(self.config), kernel.registry).resolved_blueprint
        with pytest.raises(UsageError, match="moc"):
            config_to_llama(blueprint.with_node("blocks.1.ffn", {"name": "moc"}))
        mixed = blueprint.with_node("blocks.1.mixer", {**blueprint.blocks[1].mixer, "window": 4})
        with pytest.raises(UsageError):
            config_to_llama(mixed)
        model = Decoder(blueprint, kernel.registry)
        with pytest.raises(UsageError, match=r"extra\.weight"):
            weights_to_llama({**model.state_dict(), "extra.weight": torch.zeros(1)}, blueprint)
        assert isinstance(blueprint, Blueprint)
