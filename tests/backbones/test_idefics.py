"""Idefics, the Flamingo: parity with Hugging Face, edits, generation."""

from dataclasses import replace

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


def run_ours(net: Backbone, weights, batch: Batch, whole: bool = True):
    @jax.jit
    def run(weights, batch):
        hidden = net.lower(weights, batch)
        return (hidden, net.upper(weights, hidden, batch)) if whole else (hidden,)

    real = (batch.role != Role.PAD) & (batch.role != VISION)
    return tuple(np.asarray(leaf)[real] for leaf in run(weights, batch))


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
    found = tower(ours.cfg).apply({"params": weights["vision"]}, jnp.asarray(batch.image))
    close(found, states, 1e-5)
    read = bridge(ours.cfg).apply({"params": weights["projector"]}, jnp.asarray(states.numpy()))
    close(read[..., :24], latents, 1e-5)
    assert read.shape == (2, LATENTS_N, 32) and not read[..., 24:].any()


@pytest.mark.parity
@pytest.mark.parametrize("config", [SMALL, PLAINER], ids=["small", "plainer"])
def test_the_model_equals_the_original(config):
    net, ours, weights = converted(config)
    batch = batch_of(*ASKED)
    assert ours.cfg.edit_layer == 5 and ours.cfg.vision_n == LATENTS_N
    compare(run_ours(ours, weights, batch), run_original(net, batch, 5))


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


@pytest.mark.parity
@pytest.mark.parametrize("what", ["gate", "resampler", "rows", "mask", "carried", "norm", "place"])
def test_a_wrong_part_is_seen(pair, what, monkeypatch):
    net, ours, weights = pair
    batch, cfg = batch_of(*ASKED), ours.cfg
    theirs = run_original(net, batch, 5)
    if what == "gate":
        weights = weights | {"cross": swap(weights["cross"], "attention_gate", "mlp_gate")}
    elif what == "resampler":
        layer = swap(weights["projector"]["layer0"], "norm1", "norm_image")
        weights = weights | {"projector": weights["projector"] | {"layer0": layer}}
    elif what == "rows":  # the additional ones, changed for each other
        weights = weights | {"embed": weights["embed"][[*range(38), 39, 38]]}
        batch = batch.replace(token=np.where(batch.token == 3, 39, batch.token))
        theirs = run_original(net, batch, 5)
    elif what == "mask":
        monkeypatch.setattr(backbone, "crossing", all_see_all)
    elif what == "carried":
        monkeypatch.setattr(backbone, "crossing", all_is_changed)
    elif what == "norm":
        ours = Backbone(replace(cfg, decoder=replace(cfg.decoder, cross_qk_norm=False)))
    else:  # positions that count the latents
        place = np.arange(batch.role.shape[1])
        batch = batch.replace(position=np.broadcast_to(place, batch.role.shape))
    with pytest.raises(AssertionError):
        compare(run_ours(ours, weights, batch, whole=False), theirs[:1])


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
    """A small model of ours with random weights and an editor, and one edit in its repository."""
    ours = Backbone(config_from_hf(SMALL))
    weights = jax.jit(ours.init)(jax.random.key(0))
    gates = {name: weights["cross"][name] + 0.7 for name in ("attention_gate", "mlp_gate")}
    weights |= {"cross": weights["cross"] | gates}
    params = liveedit.init_params(jax.random.key(1), EDITOR, 32, LATENTS_N)
    params["input"]["sentinel"] *= 0
    both = {"backbone": weights, "editor": params}
    repo = init_repository(EDITOR, 32, 4)
    request = batch_of([*SHOWN, ANSWER, ANSWER], seed=0)
    run = jax.jit(liveedit.edit, static_argnums=(0, 1))
    ids, valid = jnp.arange(1), jnp.ones(1, bool)
    return ours, both, run(EDITOR, ours, both, repo, request, ids, valid)[0], request


def test_an_edit_changes_its_own_question_and_no_latent(edited):
    ours, params, repo, request = edited
    query = jax.jit(liveedit.logits, static_argnums=(0, 1))
    unrelated = batch_of(ASKED[1], seed=0)
    found, routed = query(EDITOR, ours, params, repo, unrelated)
    plain = jax.jit(lambda w, b: ours.upper(w, ours.lower(w, b), b))
    np.testing.assert_array_equal(found, plain(params["backbone"], unrelated))
    assert int(routed.hit_n[0]) == 0

    found, routed = query(EDITOR, ours, params, repo, request)
    assert int(routed.hit_n[0]) == 1
    editor = liveedit.prepare(EDITOR, params["editor"])
    hidden = ours.lower(params["backbone"], request)
    added = liveedit.residual(EDITOR, editor, repo, hidden, request.role, routed)
    is_latent = request.role == VISION
    assert np.abs(added)[is_latent].max() > 0  # it would reach them, were they not kept
    spared = jnp.where(is_latent[..., None], 0, added)
    by_hand = ours.upper(params["backbone"], hidden + spared, request)
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    assert np.abs(found - plain(params["backbone"], request)).max() > 1e-4
    np.testing.assert_array_equal(
        ours.keep_features(hidden, hidden + added, request.role)[is_latent], hidden[is_latent]
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
