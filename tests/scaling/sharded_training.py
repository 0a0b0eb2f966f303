"""Checks of steps on a mesh that need eight devices; `test_sharded_training` runs them."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import PartitionSpec as P
from small_model import EDITOR, SMALL

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig, MeshConfig, StorageConfig
from liveedit_jax.data.editing import EditingBatch, EditingData
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.editor import liveedit, repository
from liveedit_jax.presets import preset
from liveedit_jax.scaling import repository as sharded
from liveedit_jax.scaling.mesh import batch_sharding, make_mesh
from liveedit_jax.scaling.partition import backbone_shardings, editor_shardings
from liveedit_jax.scaling.steps import Pod
from liveedit_jax.scaling.training import set_up_on_mesh
from liveedit_jax.training.editor import (
    editor_gradient,
    editor_step,
    init_state,
    lower_from_images,
)
from liveedit_jax.training.editor_loss import rows_of
from liveedit_jax.training.states import StateCache
from liveedit_jax.types import Batch, Role

CONFIG = replace(preset("tiny"), backbone=SMALL, editor=EDITOR)
RECIPE = EditorTrainConfig(batch_n=8, routing_blend=0.5, clip_norm=1.0)
TRAINED = (MeshConfig(data=2, fsdp=2, tensor=2),)
ASKED = (MeshConfig(data=2, tensor=2, expert=2),)
MESHES = TRAINED + ASKED
PLAIN = Backbone(SMALL)
N, T = 8, 1 + SMALL.vision_n + 15


def rows(key, *shape):
    """Tokens and roles of right-padded rows."""
    token = jax.random.randint(key, (*shape, T), 3, SMALL.decoder.vocab_n)
    kinds = [(Role.PRE, 1), (Role.VISION, SMALL.vision_n), (Role.PROMPT, 8), (Role.ANSWER, 5)]
    role = np.concatenate([np.full(n, kind, np.int8) for kind, n in [*kinds, (Role.PAD, 2)]])
    return token, jnp.asarray(np.broadcast_to(role, (*shape, T)))


def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    weights = jax.jit(PLAIN.init)(keys[0])
    side = SMALL.vision.image_size
    images = jax.random.normal(keys[1], (N, 3, side, side, 3))
    token, role = rows(keys[2], 4, N)
    batch = EditingBatch(token, role, jnp.arange(4 * N, dtype=jnp.int32).reshape(4, N))
    state = init_state(PLAIN, EDITOR, RECIPE, keys[3])
    return jax.tree.map(np.asarray, (weights, images, state, batch))  # donated copies are copies


def in_float64(tree):
    """The same in double precision, where the order of sums on a machine makes no difference.

    In float32, gradients that nearly cancel differ by 2e-5 of the largest on some processors.
    """
    jax.config.update("jax_enable_x64", True)

    def wide(leaf):
        return leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(wide, tree)


def put(mesh, images, batch):
    return jax.device_put((images, batch), (batch_sharding(mesh), batch_sharding(mesh, 1)))


def close(found, wanted, name):
    most = max(float(jnp.abs(wanted).max()), 1e-3)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * most, err_msg=name)


def every_mesh_trains_as_one_device():
    weights, images, state, batch = in_float64(inputs())
    features = jax.random.normal(jax.random.key(9), (4 * N, SMALL.vision_n, SMALL.width))

    def gradient(backbone, weights, features, state, batch):
        hidden = backbone.lower_from_features(weights, rows_of(batch), features)
        return editor_gradient(backbone, EDITOR, RECIPE, weights, hidden, state, batch)

    grads, seen = jax.jit(partial(gradient, PLAIN))(weights, features, state, batch)
    for cfg in TRAINED:
        mesh = make_mesh(cfg)
        pod = Pod(mesh, CONFIG)
        placed = jax.device_put(weights, pod.weight_shardings(weights))
        spread = jax.device_put(state, editor_shardings(mesh, state))
        pixels, rows = put(mesh, images, batch)
        read = jax.device_put(features, batch_sharding(mesh))
        found, scalars = jax.jit(partial(gradient, pod.backbone))(placed, read, spread, rows)
        for name, value in seen.items():
            close(scalars[name], value, f"{cfg} {name}")
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
            other = found
            for key in path:
                other = other[key.key]
            close(other, leaf, f"{cfg} {jax.tree_util.keystr(path)}")


def accumulated_steps_are_those_of_one_device(folder):
    """Two batches a step, each with its own pictures, as `set_up_on_mesh` puts them."""
    jax.config.update("jax_enable_x64", False)  # until all is drawn
    recipe = replace(RECIPE, batch_n=4, accumulate_n=2, answers_n=25)
    data = EditingData(mojiedit_tokenizer(SMALL.decoder.vocab_n), SMALL, recipe, EditMixture())
    weights = jax.jit(PLAIN.init)(jax.random.key(0))
    state = init_state(PLAIN, EDITOR, recipe, jax.random.key(3))
    weights, state = in_float64((weights, state))
    batch = data.batch_at(1)
    shown = batch.picture[:, [0, 2, 3]].swapaxes(1, 2)  # [2, N, 3]
    images = np.stack([[[data.picture(i) for i in row] for row in part] for part in shown])
    run = jax.jit(partial(editor_step, PLAIN, EDITOR, recipe, lower_from_images))
    one, seen = run(weights, images, state, batch)
    pod = Pod(make_mesh(TRAINED[0]), CONFIG)
    step, begun, batch_at = set_up_on_mesh(pod, recipe, weights, state, data)
    found, scalars = step(begun, batch_at(1))
    for name, value in seen.items():
        close(scalars[name], value, name)

    def cache(place):
        return StateCache(Path(folder), 2, {}, place)

    _, _, batch_at = set_up_on_mesh(pod, recipe, weights, state, data, cache)
    hidden, rows = batch_at(3)  # the second of two
    np.testing.assert_array_equal(rows.token, batch.token)
    assert {shard.data.shape[1] for shard in hidden.addressable_shards} == {4 * 4 // 4}
    lower = jax.jit(partial(lower_from_images, PLAIN))
    for part in range(2):
        here = jax.tree.map(lambda leaf, part=part: leaf[part], batch)
        close(hidden[part], lower(weights, images[part], here), f"states of batch {part}")
    for mine, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=3e-5 * max(np.abs(wanted).max(), 1e-3))


def large_arrays_are_really_split():
    weights, _, state, _ = inputs()
    for cfg in MESHES:
        mesh = make_mesh(cfg)
        pod = Pod(mesh, CONFIG)
        made = jax.jit(PLAIN.init, out_shardings=backbone_shardings(mesh, SMALL, weights))(
            jax.random.key(0)
        )
        state = pod.init_state(RECIPE, jax.random.key(3))
        split_n = cfg.fsdp * cfg.expert * cfg.tensor
        for tree in (made, state.params, state.optimizer):
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                name = jax.tree_util.keystr(path)
                if "kernel" in name and "patch" not in name and "norm" not in name:
                    here = leaf.addressable_shards[0].data.size
                    assert here * split_n == leaf.size, (cfg, name, leaf.shape, leaf.sharding)
    data = make_mesh(MeshConfig(data=8))
    flat = jax.tree.leaves(backbone_shardings(data, SMALL, weights))
    assert all(place.spec == P() or not any(place.spec) for place in flat)


def edits_queries_and_generation_are_those_of_one_device():
    weights, images, state, _ = inputs()
    token, role = rows(jax.random.key(5), N)
    batch, params = Batch(token, role, images[:, 0]), state.params
    asked = jnp.where(role == Role.ANSWER, Role.PAD, role)
    question = Batch(token, asked, images[:, 0])
    ids, valid = jnp.arange(N), jnp.arange(N) != 3
    at = jnp.full((N, 2), 1 + SMALL.vision_n + 7)
    empty = repository.init_repository(EDITOR, SMALL.width, 16, StorageConfig())
    one, slot = jax.jit(partial(liveedit.edit, EDITOR, PLAIN))(
        {"backbone": weights, "editor": params}, empty, batch, ids, valid
    )
    logits, route = jax.jit(partial(liveedit.logits, EDITOR, PLAIN))(
        {"backbone": weights, "editor": params}, one, question
    )
    assert int(route.hit_n.max()) > 0
    logits = jnp.take_along_axis(logits, at[..., None], 1)
    said = None
    for cfg in ASKED:
        mesh = make_mesh(cfg)
        pod = Pod(mesh, CONFIG)
        placed = jax.device_put(weights, pod.weight_shardings(weights))
        spread = jax.device_put(params, editor_shardings(mesh, params))
        repo = sharded.init_repository(mesh, EDITOR, SMALL.width, 16, StorageConfig())
        shown, question_ = jax.device_put((batch, question), batch_sharding(mesh))
        repo, slots = jax.jit(pod.edit, donate_argnums=2)(placed, spread, repo, shown, ids, valid)
        np.testing.assert_array_equal(slots, slot)
        for name in ("text_key", "vision_key", "down", "up"):
            close(getattr(repo, name).value, getattr(one, name).value, f"{cfg} {name}")
        found, routed = jax.jit(pod.query)(placed, spread, repo, question_, at)
        np.testing.assert_array_equal(routed.hit_n, route.hit_n)
        close(found, logits, f"{cfg} logits")
        words, _ = jax.jit(pod.generate, static_argnums=4)(placed, spread, repo, question_, 4)
        said = np.asarray(words) if said is None else said
        np.testing.assert_array_equal(words, said)


def a_checkpoint_opens_on_another_mesh(folder):
    """Do as `training.loop` does when the state it is given lies elsewhere than the saved one."""
    first, second = (Pod(make_mesh(cfg), CONFIG) for cfg in MESHES)
    state = first.init_state(RECIPE, jax.random.key(3))
    with ocp.CheckpointManager(folder) as manager:
        manager.save(1, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
        like = second.init_state(RECIPE, jax.random.key(4))
        found = manager.restore(1, args=ocp.args.StandardRestore(like))
    jax.tree.map(np.testing.assert_array_equal, found, state)
    places = editor_shardings(second.mesh, state)
    same = jax.tree.map(lambda x, to: x.sharding.is_equivalent_to(to, x.ndim), found, places)
    assert all(jax.tree.leaves(same))
