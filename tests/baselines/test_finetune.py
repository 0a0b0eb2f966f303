"""Sequential fine-tuning of one MLP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbone_config import BackboneConfig, ClipConfig, LlamaConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.baselines import finetune
from liveedit_jax.baselines.finetune import FinetuneConfig
from liveedit_jax.data.tokenise import answer_labels
from liveedit_jax.types import Batch

CFG = BackboneConfig(
    vision=ClipConfig(image_size=8, patch_size=4, width=16, layers_n=2, heads_n=2, mlp_width=16),
    decoder=LlamaConfig(
        vocab_n=50, width=16, layers_n=3, heads_n=2, kv_heads_n=1, head_width=8, mlp_width=24
    ),
    edit_layer=1,
)


@pytest.fixture(scope="module")
def model():
    backbone = Backbone(CFG)
    params = {"backbone": jax.jit(backbone.init)(jax.random.key(0))}
    role = np.asarray([[1, 2, 2, 2, 2, 3, 3, 4, 4, 0]], np.int8)
    token = np.asarray([[1, 0, 0, 0, 0, 7, 8, 9, 10, 0]], np.int32)
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    return backbone, params, Batch(token, role, image)


def test_the_unedited_state_changes_nothing(model):
    backbone, params, batch = model
    state = finetune.init(backbone, params)
    weights = params["backbone"]
    expected = backbone.upper(weights, backbone.lower(weights, batch), batch)
    np.testing.assert_array_equal(finetune.logits(backbone, params, state, batch), expected)


def test_the_loss_from_cached_inputs_is_the_models_loss(model):
    backbone, params, batch = model
    state = jax.tree.map(lambda x: x * 1.3, finetune.init(backbone, params))
    features = backbone.vision_features(params["backbone"], batch.image)
    states = finetune.mlp_input(backbone, params, batch, features)
    got = finetune.loss(backbone, params, state, states, batch)
    out = jax.nn.log_softmax(finetune.logits(backbone, params, state, batch))
    label, mask, eos = answer_labels(batch, CFG.eos_id)
    picked = -jnp.take_along_axis(out, label[..., None], -1)[..., 0]
    np.testing.assert_allclose(got, picked[mask | eos].mean(), rtol=1e-5)
    own_label, own_mask = finetune.labels(batch, CFG.eos_id)
    np.testing.assert_array_equal(own_mask, mask | eos)
    np.testing.assert_array_equal(own_label[own_mask], label[own_mask])


def test_ten_steps_lower_the_loss_and_touch_one_layer(model):
    backbone, params, batch = model
    features = backbone.vision_features(params["backbone"], batch.image)
    states = finetune.mlp_input(backbone, params, batch, features)
    before = finetune.init(backbone, params)
    cfg = FinetuneConfig(learning_rate=1e-2)
    after, losses = finetune.edit_from_input(cfg, backbone, params, before, states, batch)
    assert losses.shape == (cfg.steps_n,) and losses[-1] < losses[0]
    whole = finetune.edit(cfg, backbone, params, before, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, after)
    old, new = params["backbone"], finetune.merged(backbone, params, after)
    for name, part in old["lower"].items():
        same = jax.tree.map(lambda a, b: bool((a[:1] == b[:1]).all()), part, new["lower"][name])
        assert all(jax.tree.leaves(same))
    assert not bool((old["lower"]["down"]["kernel"] == new["lower"]["down"]["kernel"]).all())


def test_an_edit_that_is_learnt_takes_no_further_step(model):
    backbone, params, batch = model
    features = backbone.vision_features(params["backbone"], batch.image)
    states = finetune.mlp_input(backbone, params, batch, features)
    state = finetune.init(backbone, params)
    cfg = FinetuneConfig(stop_loss=1e9)
    _, losses = finetune.edit_from_input(cfg, backbone, params, state, states, batch)
    assert int(jnp.isfinite(losses).sum()) == 1
