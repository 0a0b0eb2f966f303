"""Idefics, the Flamingo: parity with Hugging Face, edits, generation."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from idefics_cases import (
    ANSWER,
    ASKED,
    LATENTS_N,
    PICTURE,
    PLAINER,
    PRE,
    PROMPT,
    SHOWN,
    SMALL,
    VISION,
    batch_of,
    converted,
    in_torch,
)
from torch_parity import channels_first, close, numpy_state

from liveedit_jax.backbones import Backbone, backbone, sequence
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.idefics_convert import config_from_hf
from liveedit_jax.backbones.registry import bridge, tower
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import liveedit
from liveedit_jax.editor.repository import init_repository
from liveedit_jax.types import Batch, Role


@pytest.fixture(scope="module")
def pair():
    return converted(SMALL)


@pytest.fixture(scope="module")
def asked(pair):
    """Rows with and without a picture, and what the original says of them."""
    batch = batch_of(*ASKED)
    return batch, run_original(pair[0], batch, 5)


def run_original(net, batch: Batch, edit_layer: int):
    """Run the original: the states after a layer, the logits, both of real tokens alone."""
    import torch

    kept = []
    hook = net.model.layers[edit_layer].register_forward_hook(lambda m, i, out: kept.append(out))
    given = in_torch(batch)
    with torch.no_grad():
        logits = net(**given).logits.numpy()
    hook.remove()
    real = given["attention_mask"].numpy() == 1
    return kept[0].numpy()[real], logits[real]


@partial(jax.jit, static_argnums=0)
def hidden_and_logits(net: Backbone, weights, batch: Batch):
    hidden = net.lower(weights, batch)
    return hidden, net.upper(weights, hidden, batch)


def at_real(batch: Batch, *found):
    """Keep the values of tokens that the original has."""
    real = (batch.role != Role.PAD) & (batch.role != VISION)
    return tuple(np.asarray(leaf)[real] for leaf in found)


def run_ours(net: Backbone, weights, batch: Batch):
    return at_real(batch, *hidden_and_logits(net, weights, batch))


def compare(ours, theirs) -> None:
    for found, want in zip(ours, theirs, strict=True):
        close(found, want, 1e-4)


@pytest.mark.parity
def test_tower_and_resampler_equal_the_originals(pair):
    import torch

    net, ours, weights = pair
    batch = batch_of(SHOWN, SHOWN)
    with torch.no_grad():
        states = net.model.vision_model(pixel_values=channels_first(batch.image))[0]
        latents = net.model.perceiver_resampler(states)
    found = jax.jit(tower(ours.cfg).apply)({"params": weights["vision"]}, batch.image)
    close(found, states, 1e-5)
    read = jax.jit(bridge(ours.cfg).apply)({"params": weights["projector"]}, states.numpy())
    close(read[..., :24], latents, 1e-5)
    assert read.shape == (2, LATENTS_N, 32) and not read[..., 24:].any()


@pytest.mark.parity
def test_the_model_equals_the_original(pair, asked):
    batch, theirs = asked
    assert pair[1].cfg.edit_layer == 5 and pair[1].cfg.vision_n == LATENTS_N
    compare(run_ours(*pair[1:], batch), theirs)
    net, plainer, weights = converted(PLAINER)
    compare(run_ours(plainer, weights, batch), run_original(net, batch, 5))


@pytest.mark.parity
def test_a_token_reads_the_last_picture_before_it(pair):
    net, ours, weights = pair
    row = [PRE, PRE, *PICTURE, *[PROMPT] * 2, *PICTURE, PROMPT, PROMPT]
    batch = batch_of(row, [PRE, *PICTURE, *PICTURE, PROMPT], images_n=2)
    compare(run_ours(ours, weights, batch), run_original(net, batch, 5))


def swap(tree: dict, first: str, second: str) -> dict:
    return tree | {first: tree[second], second: tree[first]}


def all_see_all(cfg, batch):
    seen = sequence.crossing(cfg, batch)
    return seen._replace(mask=jnp.ones_like(seen.mask) & (batch.role == VISION)[:, None])


def all_is_changed(cfg, batch):
    return sequence.crossing(cfg, batch)._replace(carried=None)


def wrong_weights(weights: dict) -> dict:
    """Weights in which two parts have changed places."""
    layer = swap(weights["projector"]["layer0"], "norm1", "norm_image")
    return {
        "gate": weights | {"cross": swap(weights["cross"], "attention_gate", "mlp_gate")},
        "resampler": weights | {"projector": weights["projector"] | {"layer0": layer}},
        "rows": weights | {"embed": weights["embed"][[*range(38), 39, 38]]},  # additional ones
    }


@pytest.mark.parity
@pytest.mark.parametrize("what", ["gate", "resampler", "rows"])
def test_a_wrong_weight_is_seen(pair, asked, what):
    net, ours, weights = pair
    batch, theirs = asked
    if what == "rows":
        batch = batch.replace(token=np.where(batch.token == 3, 39, batch.token))
        theirs = run_original(net, batch, 5)
    with pytest.raises(AssertionError):
        compare(run_ours(ours, wrong_weights(weights)[what], batch)[:1], theirs[:1])


@pytest.mark.parity
@pytest.mark.parametrize("what", ["mask", "carried", "norm", "place"])
def test_a_wrong_part_is_seen(pair, asked, what, monkeypatch):
    _, ours, weights = pair
    batch, theirs = asked
    cfg = ours.cfg
    if what == "mask":
        monkeypatch.setattr(backbone, "crossing", all_see_all)
    elif what == "carried":
        monkeypatch.setattr(backbone, "crossing", all_is_changed)
    elif what == "norm":
        ours = Backbone(replace(cfg, decoder=replace(cfg.decoder, cross_qk_norm=False)))
    else:  # positions that count the latents
        place = np.arange(batch.role.shape[1])
        batch = batch.replace(position=np.broadcast_to(place, batch.role.shape))
    hidden = jax.jit(lambda *given: ours.lower(*given))(weights, batch)  # traced for each case
    with pytest.raises(AssertionError):
        compare(at_real(batch, hidden), theirs[:1])


@pytest.mark.parity
def test_generation_equals_the_original_without_a_cache(pair):
    import torch

    net, ours, weights = pair
    batch = batch_of(*ASKED[:2], ASKED[3])
    made = np.asarray(generate(ours, weights, batch, 5))
    for b in range(3):
        given = in_torch(jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], batch))
        want = []
        while len(want) < 5 and ours.cfg.eos_id not in want:
            with torch.no_grad():
                best = net(**given).logits[0, -1].argmax()
            want.append(int(best))
            given["input_ids"] = torch.cat([given["input_ids"], best[None, None]], 1)
            for name in ("attention_mask", "image_attention_mask"):
                given[name] = torch.cat([given[name], given[name][:, -1:]], 1)
        assert made[b].tolist() == want + [ours.cfg.pad_id] * (5 - len(want))


EDITOR = EditorConfig(module_width=16, heads_n=2, paired_init=True)  # an edit hits itself


@pytest.fixture
def edited():
    """A small model of ours with random weights and an editor, and the first of two rows edited."""
    ours = Backbone(config_from_hf(SMALL))
    weights = jax.jit(ours.init)(jax.random.key(0))
    gates = {name: weights["cross"][name] + 0.7 for name in ("attention_gate", "mlp_gate")}
    weights |= {"cross": weights["cross"] | gates}
    params = liveedit.init_params(jax.random.key(1), EDITOR, 32, LATENTS_N)
    params["input"]["sentinel"] *= 0
    both = {"backbone": weights, "editor": params}
    repo = init_repository(EDITOR, 32, 4)
    asked = batch_of([*SHOWN, ANSWER, ANSWER], ASKED[1], seed=0)
    run = jax.jit(liveedit.edit, static_argnums=(0, 1))
    ids, valid = jnp.arange(2), jnp.asarray([True, False])
    return ours, both, run(EDITOR, ours, both, repo, asked, ids, valid)[0], asked


def test_an_edit_changes_its_own_question_and_no_latent(edited):
    ours, params, repo, asked = edited
    found, routed = jax.jit(liveedit.logits, static_argnums=(0, 1))(
        EDITOR, ours, params, repo, asked
    )
    hidden, plain = hidden_and_logits(ours, params["backbone"], asked)
    assert routed.hit_n.tolist() == [1, 0]
    np.testing.assert_array_equal(found[1], plain[1])
    assert np.abs(found - plain)[0].max() > 1e-4

    @jax.jit
    def by_hand(params, repo, hidden, asked, routed):
        editor = liveedit.prepare(EDITOR, params["editor"])
        added = liveedit.residual(EDITOR, editor, repo, hidden, asked.role, routed)
        spared = jnp.where((asked.role == VISION)[..., None], 0, added)
        return added, ours.upper(params["backbone"], hidden + spared, asked)

    added, wanted = by_hand(params, repo, hidden, asked, routed)
    is_latent = asked.role == VISION
    assert np.abs(added)[is_latent].max() > 0  # it would reach them, were they not kept
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(
        ours.keep_features(hidden, hidden + added, asked.role)[is_latent], hidden[is_latent]
    )


@pytest.mark.parity
def test_missing_and_unknown_weights_are_named(pair):
    net, ours, _ = pair
    state = numpy_state(net)
    rows = state.pop("lm_head.additional_fc.weight")
    with pytest.raises(ValueError, match=r"missing weights for head \(1 of its parts found\)"):
        convert_weights(ours.cfg, state)
    with pytest.raises(ValueError, match=r"additional_fc.weight makes head of shape \(32, 1\)"):
        convert_weights(ours.cfg, state | {"lm_head.additional_fc.weight": rows[:1]})
    name = "model.gated_cross_attn_layers.2.alpha_dense"
    more = state | {"lm_head.additional_fc.weight": rows, name: np.ones(1, np.float32)}
    with pytest.raises(ValueError, match=f"unknown name {name}"):
        convert_weights(ours.cfg, more)
