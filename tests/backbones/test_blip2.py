"""BLIP-2 with OPT: parity with Hugging Face by block and as a whole, generation with its cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_parity import (
    channels_first,
    close,
    compare_model,
    lower,
    numpy_state,
    rows,
    shaken,
    their_ids,
)

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones import weights as checkpoint
from liveedit_jax.backbones.blip2_convert import config_from_hf
from liveedit_jax.backbones.convert import convert, transpose
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.registry import bridge, tower
from liveedit_jax.types import Role

IMAGE_ID = 49


def their_config():
    from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

    return Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=12, patch_size=4,
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=24, encoder_hidden_size=24,
        ).to_dict(),
        text_config=OPTConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=4, ffn_dim=48, num_attention_heads=4,
            max_position_embeddings=64, word_embed_proj_dim=32,
        ).to_dict(),
        num_query_tokens=5,
        image_token_index=IMAGE_ID,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    from transformers import Blip2ForConditionalGeneration

    theirs = their_config()
    net = shaken(Blip2ForConditionalGeneration(theirs))
    cfg = config_from_hf(theirs.to_dict(), edit_layer=1)
    return net, Backbone(cfg), checkpoint.convert_weights(cfg, numpy_state(net))


def batch_of(lengths):
    return rows([], 5, [n + 1 for n in lengths], 50, (12, 12, 3))


@pytest.mark.parity
def test_every_block_equals_the_original(pair):
    net, backbone, weights = pair
    batch = batch_of([4, 4])
    pixels = channels_first(batch.image)
    vision = net.vision_model(pixel_values=pixels).last_hidden_state
    ours = jax.jit(tower(backbone.cfg).apply)({"params": weights["vision"]}, batch.image)
    close(ours, vision, 1e-5)
    query = net.query_tokens.expand(2, -1, -1)
    read = net.qformer(query_embeds=query, encoder_hidden_states=vision).last_hidden_state
    given = jnp.asarray(vision.detach().numpy())
    bridged = jax.jit(bridge(backbone.cfg).apply)({"params": weights["projector"]}, given)
    close(bridged, net.language_projection(read), 1e-5)


@pytest.mark.parity
def test_the_model_equals_the_original(pair):
    net, backbone, weights = pair
    batch = batch_of([6, 3])
    ids, mask = their_ids(batch, IMAGE_ID)
    out = net(
        input_ids=ids,
        pixel_values=channels_first(batch.image),
        attention_mask=mask,
        output_hidden_states=True,
    )
    hidden = out.language_model_outputs.hidden_states[2]
    compare_model(backbone, weights, batch, hidden, out.logits)


@pytest.mark.parity
def test_a_wrong_entry_of_the_table_is_seen(pair):
    net, backbone, weights = pair
    table = checkpoint.conversion_rules(backbone.cfg)
    flips = {"lower/attention/q/kernel": "lower/attention/k/kernel"}
    flips |= {new: old for old, new in flips.items()}
    wrong = [rule._replace(path=flips.get(rule.path, rule.path)) for rule in table]
    like = jax.eval_shape(backbone.init, jax.random.key(0))
    flipped = convert(numpy_state(net), wrong, like)
    batch = batch_of([6, 3])
    right = lower(backbone, weights, batch)
    found = lower(backbone, flipped, batch)
    with pytest.raises(AssertionError):
        close(found, np.asarray(right), 1e-4)


@pytest.mark.parity
def test_a_forgotten_transpose_is_seen(pair):
    net, backbone, weights = pair
    table = checkpoint.conversion_rules(backbone.cfg)
    path = "lower/attention/v/kernel"  # square: no shape gives it away
    wrong = [r._replace(transform=lambda a: a) if r.path == path else r for r in table]
    assert any(r.path == path and r.transform is transpose for r in table)
    like = jax.eval_shape(backbone.init, jax.random.key(0))
    batch = batch_of([6, 3])
    found = lower(backbone, convert(numpy_state(net), wrong, like), batch)
    with pytest.raises(AssertionError):
        close(found, np.asarray(lower(backbone, weights, batch)), 1e-4)


@pytest.mark.parity
def test_generation_with_learned_positions_equals_the_original(pair):
    net, backbone, weights = pair
    batch = batch_of([5])
    ids, _ = their_ids(batch, IMAGE_ID)
    pixels, want = channels_first(batch.image), []
    for _ in range(6):
        logits = net(input_ids=ids, pixel_values=pixels).logits[0, -1]
        want.append(int(logits.argmax()))
        if want[-1] == backbone.cfg.eos_id:
            break
        ids = __import__("torch").cat([ids, logits.argmax()[None, None]], dim=1)
    made = np.asarray(generate(backbone, weights, batch, 6))[0].tolist()
    assert made[: len(want)] == want


def test_the_image_comes_first(pair):
    _, backbone, _ = pair
    assert backbone.cfg.image_first and backbone.cfg.vision_n == 5
    assert int(batch_of([2]).role[0, 0]) == Role.VISION
