"""The start of editor training (looks, gates, paired extractors) and the rates of its parts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig, InitFitConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.editor import generator
from liveedit_jax.editor.attention import Tokens, normalise
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.presets import preset
from liveedit_jax.training.addressing import (
    EOS,
    Edits,
    Gates,
    Looks,
    attention,
    edits_of,
    fit,
    items_of,
    look_loss,
    start_generators,
    write_loss,
    writes,
)
from liveedit_jax.training.optimizers import editor_optimizer
from liveedit_jax.types import Role

EDITOR = replace(preset("tiny-paper").editor, module_width=32, heads_n=2, rank=8)
N, WIDTH, CODE, T = 200, 96, 32, 9


@pytest.fixture(scope="module")
def edits():
    """States that hold a code of the token and, after it, which position it has."""
    rng = np.random.default_rng(0)
    role = np.tile([Role.PRE, Role.PROMPT, *[Role.ANSWER] * 6, Role.PAD], (N, 1)).astype(np.int8)
    token = np.stack([rng.permutation(50)[:T] for _ in range(N)])
    code = rng.choice([-1.0, 1.0], (50, CODE))
    place = np.tile(4 * np.eye(T), (N, 1, 1))
    rest = rng.normal(size=(N, T, WIDTH - CODE - T))
    states = np.concatenate([code[token], place, rest], -1)
    return Edits(jnp.asarray(states, jnp.float32), jnp.asarray(token), jnp.asarray(role))


def by_place(rows: list[int]) -> jax.Array:
    """Looks that find a token by its position."""
    return jnp.zeros((len(rows), WIDTH)).at[jnp.arange(len(rows)), CODE + np.array(rows)].set(5.0)


def test_look_loss_tells_right_looks_from_wrong_ones(edits):
    items, places = [2, 3, 4, 5, 6, 7, 1], [1, 2, 3, 4, 5, 6, 7]  # the last one is EOS
    right = look_loss(Looks(by_place(items), by_place(places)), edits)
    same = look_loss(Looks(by_place(items), by_place(items)), edits)
    half = look_loss(Looks(by_place(items[:3]), by_place(places[:3])), edits)
    assert float(right) < 0.01
    assert float(half) > 3 and float(same) > 8


def test_write_loss_tells_right_gates_from_wrong_ones(edits):
    looks = Looks(by_place([2, 3, 4, 5, 6, 7, 1]), by_place([1, 2, 3, 4, 5, 6, 7]))
    own = jnp.zeros((WIDTH, WIDTH)).at[jnp.arange(CODE), jnp.arange(CODE)].set(1 / CODE)
    bias = jnp.zeros(WIDTH)
    right, everywhere, shut = (
        float(write_loss(looks, Gates(kernel, bias + b), edits))
        for kernel, b in ((own, 0.0), (own, 0.05), (0 * own, 0.0))
    )
    assert shut == pytest.approx(1.0)
    assert right < 0.3 < everywhere


def test_writing_a_token_where_it_is_due_is_never_wrong(edits):
    """The same token twice: its row may fire before both."""
    looks = Looks(by_place([5]), by_place([4]))
    both = jnp.zeros((WIDTH, WIDTH)).at[CODE + 4, CODE + jnp.array([2, 4])].set(1 / 16)
    gates = Gates(both, jnp.zeros(WIDTH))
    role = jnp.where(jnp.arange(T) == 5, edits.role, jnp.minimum(edits.role, Role.PROMPT))
    once = edits._replace(role=role)
    twice = once._replace(token=once.token.at[:, 3].set(once.token[:, 5]))
    # EOS is not written: a loss of 1, and half of the items
    assert float(write_loss(looks, gates, once)) == pytest.approx(1.0, abs=0.01)
    assert float(write_loss(looks, gates, twice)) == pytest.approx(0.5, abs=0.01)


def test_what_is_fitted_covers_answers_and_fires_right_before_them(edits):
    looks, gates, (look_end, write_end) = fit(
        edits, 9, InitFitConfig(look_steps_n=1000, write_steps_n=1000), 0
    )
    assert look_end < 0.2 and write_end < 0.1
    up, down = attention(looks.up, edits), attention(looks.down, edits)
    items, places = np.array([2, 3, 4, 5, 6, 7, 1]), np.array([1, 2, 3, 4, 5, 6, 7])
    covered = (up[..., items] * down[..., places]).sum(1)
    assert float(covered.min()) > 0.7
    written = np.asarray(writes(looks, gates, edits))[:, items, :8]
    assert (written.argmax(-1) == places).mean() > 0.99


def test_items_are_the_answer_and_eos(edits):
    found = items_of(jax.tree.map(lambda leaf: leaf[:1], edits))
    token = np.asarray(edits.token[0])
    assert np.flatnonzero(found.mask[0]).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.place[0, 1:8].tolist() == [7, 1, 2, 3, 4, 5, 6]
    assert found.token[0, 1] == found.due[0, 7] == EOS
    assert found.due[0, :7].tolist() == token[1:8].tolist()


def test_edits_are_the_frozen_models_states(tokenizer):
    tiny = preset("tiny-paper")
    shape = replace(tiny.backbone, decoder=replace(tiny.backbone.decoder, width=32, layers_n=4))
    backbone, recipe = Backbone(shape), EditorTrainConfig(batch_n=3)
    data = EditingData(tokenizer, shape, recipe, EditMixture(lengths=((44, 0.5), (60, 0.5))))
    weights = jax.jit(backbone.init)(jax.random.key(0))
    pictures = jax.random.normal(jax.random.key(1), (2 * len(data.entities), shape.vision_n, 32))
    found = edits_of(backbone, weights, pictures, data, 1e-5, batches_n=2)
    assert found.states.shape == (6, 60, 32) and found.token.shape == found.role.shape == (6, 60)
    batch = data.batch_at(1)
    rows = without_pixels(batch.token[0], batch.role[0])
    want = jax.jit(backbone.lower_from_features)(weights, rows, pictures[batch.picture[0]])
    t = want.shape[1]
    assert found.states.dtype == jnp.float16
    np.testing.assert_allclose(found.states[3:, :t], normalise(want, 1e-5), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.token[3:, :t], batch.token[0])
    assert not found.role[3:, t:].any()


@pytest.mark.parametrize("heads_n", [1, 4])
def test_generators_start_with_the_looks_and_the_gates(edits, heads_n):
    cfg = replace(EDITOR, generator_heads_n=heads_n)
    params = init_params(jax.random.key(0), cfg, WIDTH, 4)
    keys = jax.random.split(jax.random.key(1), 3)
    looks = Looks(*(0.3 * jax.random.normal(key, (8, WIDTH)) for key in keys[:2]))
    gates = Gates(jax.random.normal(keys[2], (WIDTH, WIDTH)), jnp.ones(WIDTH))
    started = start_generators(cfg, params, looks, gates, 0.25)
    some = jax.tree.map(lambda leaf: leaf[:5], edits)
    mask = some.role != Role.PAD
    seen = {
        side: jnp.einsum("nrt,ntd->nrd", attention(getattr(looks, side), some), some.states)
        for side in ("up", "down")
    }
    value = params["up"]["attention"]["v"]
    size = cfg.expert_scale * cfg.rank**0.5
    want = {
        "up": (seen["up"] @ value["kernel"] + value["bias"]) / size,
        "down": 0.25 * (seen["down"] @ gates.kernel + gates.bias),
    }
    tokens = Tokens(some.states, jnp.zeros(mask.shape), jnp.ones(mask.shape))  # normalised
    for side, body in want.items():
        made = generator.prepare(cfg, started[side])
        made = generator.generate(cfg, made, tokens, mask)
        np.testing.assert_allclose(made, body, rtol=1e-3, atol=1e-3 * float(jnp.abs(body).max()))
    for part in ("edit", "input", "norm"):
        assert started[part] is params[part]
    leaves = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(started)]
    assert len(set(leaves)) == len(leaves)  # training donates them


def test_heads_too_narrow_for_the_rank_are_refused():
    cfg = replace(EDITOR, generator_heads_n=8)
    looks = Looks(jnp.ones((8, WIDTH)), jnp.ones((8, WIDTH)))
    gates = Gates(jnp.eye(WIDTH), jnp.zeros(WIDTH))
    with pytest.raises(ValueError, match="use fewer heads"):
        start_generators(cfg, init_params(jax.random.key(0), cfg, WIDTH, 4), looks, gates, 1.0)


@pytest.mark.parametrize("paired", [False, True])
def test_paired_init_starts_both_extractors_alike(paired):
    params = init_params(jax.random.key(0), replace(EDITOR, paired_init=paired), WIDTH, 4)
    sentinel = params["input"].pop("sentinel")
    assert sentinel.shape == (4, WIDTH)
    same = jax.tree.map(jnp.array_equal, params["edit"], params["input"])
    assert all(jax.tree.leaves(same)) == paired


def test_vision_values_start_larger_by_their_scale():
    one, three = (
        init_params(jax.random.key(0), replace(EDITOR, vision_init_scale=scale), WIDTH, 4)
        for scale in (1.0, 3.0)
    )
    for side in ("edit", "input"):
        value, large = (params[side]["vision_attention"].pop("v") for params in (one, three))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(3 * a, b, rtol=1e-6), value, large)
    jax.tree.map(np.testing.assert_array_equal, one, three)


def test_the_parts_have_rates_of_their_own():
    plain = EditorTrainConfig(learning_rate=0.01, muon=True, clip_norm=1.0)
    params = init_params(jax.random.key(0), EDITOR, WIDTH, 4)
    grads = jax.tree.map(jnp.ones_like, params)

    def step(recipe):
        optimizer = editor_optimizer(recipe)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    a = step(plain)
    b = step(replace(plain, rate_extractor=2.0, rate_attention=0.5, rate_down=0.1, rate_up=3.0))
    ratio = jax.tree.map(lambda x, y: float((y / x).mean()), a, b)
    for side, rate in (("down", 0.1), ("up", 3.0)):
        for leaf in jax.tree.leaves(ratio[side]["attention"]["v"]):
            assert leaf == pytest.approx(rate, rel=1e-4)
        assert ratio[side]["query"] == pytest.approx(0.5, rel=1e-4)
        assert ratio[side]["attention"]["k"]["kernel"] == pytest.approx(0.5, rel=1e-4)
        assert ratio[side]["norm"]["scale"] == pytest.approx(1.0, rel=1e-4)
    for part, rate in (("edit", 2.0), ("input", 2.0), ("norm", 1.0)):
        assert all(x == pytest.approx(rate, rel=1e-4) for x in jax.tree.leaves(ratio[part]))
    c = step(replace(plain, rate_extractor=2.0, rate_image=0.25, rate_sentinel=4.0))
    ratio = jax.tree.map(lambda x, y: float((y / x).mean()), a, c)
    for side in ("edit", "input"):
        for part, tree in ratio[side].items():
            rate = {"text_query": 2.0, "text_attention": 2.0, "norm2": 2.0, "sentinel": 4.0}
            wanted = rate.get(part, 0.25)
            assert all(x == pytest.approx(wanted, rel=1e-4) for x in jax.tree.leaves(tree))
