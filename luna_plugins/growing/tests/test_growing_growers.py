"""Growers as functions: the same output after as before, for every kind of layer, also from a file."""

import copy

import pytest
import torch
from luna_plugin_growing.grower import rearrange
from luna_plugin_growing.width import split_units

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.model.checkpoint import open_model, save_model

TOKENS = torch.randint(0, 48, (3, 23), generator=torch.Generator().manual_seed(0))
SEGMENTS = torch.tensor([[1] * 9 + [2] * 11 + [0] * 3] * 3)


def logits(model, segments=None):
    with torch.no_grad():
        return model.eval()(TOKENS, segments).logits


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("fields", [{}, {"blocks": 3}, {"after": (0,)}, {"after": (1, 0, 0)}], ids=str)
def test_depth_leaves_every_layer_as_it_is_to_the_bit(layers, fields, make_model, take, build, make_grower, plugins):
    model = make_model(layers)
    before = take(model)
    kept = copy.deepcopy(before)
    grown = make_grower("depth", **fields).grow(before, plugins.registry)
    larger = build(grown)
    added = len(fields.get("after", ())) or fields.get("blocks", 1)
    assert larger.dims.num_layers == 2 + added
    for segments in (None, SEGMENTS):
        assert torch.equal(logits(larger, segments), logits(model, segments))
    assert same(before.weights, kept.weights)
    assert before.blueprint == kept.blueprint


def test_depth_from_a_file_and_token_by_token(layers, make_model, take, build, make_grower, plugins, tmp_path):
    model = make_model(layers)
    larger = build(make_grower("depth", after=(0, 1)).grow(take(model), plugins.registry))
    save_model(tmp_path / "model", larger, plugins=plugins)
    opened = open_model(tmp_path / "model", selection="all").model
    assert opened.dims.num_layers == 4
    assert same(opened.state_dict(), larger.state_dict())
    # Weights that are mapped from a file begin anywhere in memory, and matrix products round by where they begin.
    assert torch.allclose(logits(opened), logits(model), atol=1e-5)
    states = [each.make_state(3, 23) for each in (model, larger)]
    with torch.no_grad():
        for a, b in [(0, 8), *((i, i + 1) for i in range(8, 23))]:
            one, two = (m(TOKENS[:, a:b], state=s).logits for m, s in zip((model, larger), states, strict=True))
            assert torch.equal(one, two)


def test_a_new_block_learns_at_once_and_is_no_copy_for_long(layers, make_model, take, build, make_grower, plugins):
    larger = build(make_grower("depth").grow(take(make_model(layers)), plugins.registry)).train()
    new = {name: p for name, p in larger.named_parameters() if name.startswith("blocks.2.")}
    optimizer = torch.optim.SGD(larger.parameters(), lr=0.1)
    reached = []
    for _ in range(2):
        out = larger.token_losses(TOKENS, TOKENS.roll(-1, 1))
        optimizer.zero_grad()
        (out.sum_loss / TOKENS.numel()).backward()
        reached.append({name for name, p in new.items() if p.grad is not None and p.grad.any()})
        optimizer.step()
    assert reached[0]
    assert reached[0] < reached[1] == set(new)


def test_new_blocks_are_spread_evenly(make_grower):
    def order(count, depth=12):
        return [i for i, new in make_grower("depth", blocks=count)._order(depth) if new]

    assert order(1) == [11]
    assert order(3) == [3, 7, 11]
    assert order(12) == list(range(12))
    assert order(5) == [2, 4, 7, 9, 11]
    assert order(14, 2) == [0] * 7 + [1] * 7


def test_births_and_moments_move_with_their_blocks(make_model, take):
    model = make_model()
    names = [name for name, _ in model.named_parameters()]
    grown = take(model, {name: {"step": torch.tensor(3.0)} for name in names}, {"blocks.1.ffn.down.weight": 2})
    result = rearrange(grown, [(0, False), (0, True), (1, False)])
    assert result.births["blocks.2.ffn.down.weight"] == 2
    assert {name for name, step in result.births.items() if step == 7} == {
        name.replace("blocks.0.", "blocks.1.") for name in names if name.startswith("blocks.0.")
    }
    assert "blocks.1.ffn.down.weight" not in result.optimizer_state
    assert result.optimizer_state["blocks.2.ffn.down.weight"] is grown.optimizer_state["blocks.1.ffn.down.weight"]
    assert set(result.optimizer_state) == {n.replace("blocks.1.", "blocks.2.") for n in names}
    assert len(result.blueprint["blocks"]) == 3
    assert result.blueprint["blocks"][0] is not result.blueprint["blocks"][1]


def test_stack_repeats_the_whole(layers, make_model, take, build, make_grower, plugins):
    model = make_model(layers)
    grower = make_grower("stack", times=3)
    larger = build(grower.grow(take(model), plugins.registry))
    assert grower.tolerance is None
    assert larger.dims.num_layers == 6
    state, mine = larger.state_dict(), model.state_dict()
    assert all(torch.equal(state[n.replace("blocks.1.", "blocks.5.")], v) for n, v in mine.items())
    assert not torch.allclose(logits(larger), logits(model), atol=1e-3)


# --- width ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "fields", [{"ffn": 2}, {"ffn": 3.3}, {"ffn": 1, "d_model": 2}, {"ffn": 1.5, "d_model": 1.5}], ids=str
)
def test_width_leaves_the_dense_model_as_it_is(fields, tied, bias, make_model, take, build, make_grower, plugins):
    plan = with_biases(make_model().blueprint, tied, bias)
    model = make_model(blueprint=plan)
    before = take(model)
    kept = copy.deepcopy(before)
    torch.manual_seed(3)
    larger = build(make_grower("width", **fields).grow(before, plugins.registry))
    expected = logits(model)
    assert (logits(larger) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (logits(larger, SEGMENTS) - logits(model, SEGMENTS)).abs().max() <= 1e-5 * expected.abs().max()
    assert same(before.weights, kept.weights)
    assert before.blueprint == kept.blueprint
    hidden = {"{'ffn': 2}": 64, "{'ffn': 3.3}": 112}.get(str(fields))
    if hidden:
        assert larger.blocks[0].ffn.down.weight.shape == (16, hidden)
    else:
        assert larger.dims.d_model == 16 * fields["d_model"]


def with_biases(blueprint, tied, bias):
    import dataclasses

    blueprint = dataclasses.replace(blueprint, tie_embeddings=tied)
    if bias:
        for i in range(2):
            blueprint = blueprint.with_node(
                f"blocks.{i}.mixer", {"name": "attention", "qkv_bias": True, "out_bias": True}
            )
            blueprint = blueprint.with_node(f"blocks.{i}.ffn", {"name": "swiglu", "bias": True})
    return blueprint


def test_width_in_double_precision_is_exact_and_the_correction_is_needed(make_model, take, build, make_grower, plugins):
    """With a stream so small that eps weighs, the norms agree only if their weights and eps are corrected."""
    model = make_model().double()
    with torch.no_grad():
        model.embedding.weight *= 1e-2
    expected = logits(model)
    grown = make_grower("width", ffn=1, d_model=1.5).grow(take(model), plugins.registry)
    assert grown.blueprint["dims"]["norm_eps"] == pytest.approx(1e-5 / 1.5)
    larger = build(grown).double()
    larger.load_state_dict(grown.weights)
    error = (logits(larger) - expected).abs().max() / expected.abs().max()
    assert error < 1e-6  # the kernel's norm takes its statistics in float32
    grown.blueprint["dims"]["norm_eps"] = 1e-5
    wrong = build(grown).double()
    wrong.load_state_dict(grown.weights)
    assert (logits(wrong) - expected).abs().max() / expected.abs().max() > 100 * error


def test_units_are_shared_out_unequally(make_grower):
    copies, shares = split_units(10, 27)
    counts = torch.bincount(copies)
    assert copies[:10].tolist() == list(range(10))
    assert counts.min() >= 2
    assert counts.max() <= 3
    assert torch.allclose(torch.zeros(10).double().index_add_(0, copies, shares), torch.ones(10).double())
    for unit in range(10):
        mine = shares[copies == unit]
        assert len(set(mine.tolist())) == len(mine)
    copies, shares = split_units(10, 14)
    assert (shares[torch.bincount(copies)[copies] == 1] == 1).all()


@pytest.mark.parametrize("fields", [{"ffn": 2.5}, {"ffn": 1, "d_model": 1.5}], ids=str)
def test_moments_are_those_of_the_larger_model(fields, make_model, take, build, make_grower, plugins):
    """A moment is an average of gradients; so for the old numbers it must be the larger model's own gradient."""
    model = make_model()
    gradients = dict(zip(dict(model.named_parameters()), gradient(model), strict=True))
    moments = {n: {"step": torch.tensor(1.0), "exp_avg": g, "exp_avg_sq": g**2} for n, g in gradients.items()}
    torch.manual_seed(5)
    grown = make_grower("width", **fields).grow(take(model, moments), plugins.registry)
    larger = build(grown)
    for (name, parameter), mine in zip(larger.named_parameters(), gradient(larger), strict=True):
        state = grown.optimizer_state[name]
        assert state["exp_avg"].shape == parameter.shape
        known = state["exp_avg"] != 0
        assert known.sum() >= gradients[name].count_nonzero()
        scale = mine.abs().max()
        assert torch.allclose(state["exp_avg"][known], mine[known], atol=1e-5 * scale)
        assert torch.allclose(state["exp_avg_sq"][known], mine[known] ** 2, atol=1e-5 * scale**2)


def gradient(model):
    out = model.token_losses(TOKENS, TOKENS.roll(-1, 1))
    return torch.autograd.grad(out.sum_loss, list(model.parameters()))


def test_what_an_optimiser_keeps_and_nobody_knows_begins_anew(make_model, take, make_grower, plugins):
    model = make_model()
    name = "blocks.0.ffn.down.weight"
    strange = {
        name: {"curvature": torch.ones_like(model.state_dict()[name])},
        "norm.weight": {"curvature": torch.ones(16)},
    }
    grown = make_grower("width").grow(take(model, strange), plugins.registry)
    assert set(grown.optimizer_state) == {"norm.weight"}


@pytest.mark.parametrize("shares", ["equal", "unequal"])
def test_copies_of_a_unit_part_ways(shares, make_model, take, build, make_grower, plugins, monkeypatch):
    """Unless they share equally: then they would stay one unit for ever."""
    from luna_plugin_growing import width

    torch.manual_seed(2)
    if shares == "equal":
        monkeypatch.setattr(
            width, "split_units", lambda units, wider: (split_units(units, wider)[0], torch.full((wider,), 0.5))
        )
    larger = build(make_grower("width").grow(take(make_model()), plugins.registry)).train()
    optimizer = torch.optim.AdamW(larger.parameters(), lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        larger.token_losses(TOKENS, TOKENS.roll(-1, 1)).sum_loss.backward()
        optimizer.step()
    units = larger.blocks[0].ffn.gate_up.weight.detach().double()[:64]
    nearest = ((units[:, None] - units).norm(dim=-1) + 9 * torch.eye(64)).min(1).values
    assert bool(nearest.min() > 1e-5) is (shares == "unequal")
    assert bool(nearest.max() < 1e-5) is (shares == "equal")


@pytest.mark.parametrize("fields", [{}, {"ffn": 1, "d_model": 2}], ids=["ffn", "stream"])
def test_width_refuses_what_it_does_not_know(fields, make_model, take, make_grower, plugins):
    pytest.importorskip("luna_plugin_moc")
    pytest.importorskip("luna_plugin_ssm")
    for layers, place in (("moc", "blocks.0.ffn: .*'moc'"), ("moc and ssm", "blocks.[01].(ffn|mixer): .*'(moc|ssm)'")):
        with pytest.raises(UsageError, match=place) as caught:
            make_grower("width", **fields).grow(take(make_model(layers)), plugins.registry)
        assert "depth" in caught.value.hint
    if fields:
        normed = make_model().blueprint.with_node("blocks.1.mixer", {"name": "attention", "qk_norm": True})
        with pytest.raises(UsageError, match=r"blocks\.1\.mixer.*without qk_norm"):
            make_grower("width", **fields).grow(take(make_model(blueprint=normed)), plugins.registry)


def test_depth_refuses_a_silent_layer_and_a_block_that_is_not_there(
    make_model, take, make_grower, plugins, monkeypatch
):
    from luna_kernel.contracts.layers import Layer
    from luna_kernel.model.feed_forward import SwiGLU

    grown = take(make_model())
    with pytest.raises(UsageError, match="no block 2 to copy; the last one is 1"):
        make_grower("depth", after=(2,)).grow(grown, plugins.registry)
    monkeypatch.setattr(SwiGLU, "output_parameters", Layer.output_parameters)
    with pytest.raises(UsageError, match=r"blocks\.2\.ffn: 'swiglu' \(plugin kernel\)"):
        make_grower("depth").grow(grown, plugins.registry)


def test_wrong_configurations(make_grower):
    for name, fields, text in (
        ("depth", {"blocks": 0}, "blocks"),
        ("stack", {"times": 1}, "times"),
        ("width", {"ffn": 1}, "nothing would grow"),
        ("width", {"ffn": 0.5}, "ffn"),
    ):
        with pytest.raises(ConfigError, match=text):
            make_grower(name, **fields)
