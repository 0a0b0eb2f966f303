"""Checks that need eight devices; `test_sharded_repository` runs each in such a process."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from liveedit_jax.config import EditorConfig, Precision, StorageConfig
from liveedit_jax.editor import liveedit, repository, routing
from liveedit_jax.editor.routing import route
from liveedit_jax.scaling import repository as sharded
from liveedit_jax.types import Expert, Query, Role

CFG = EditorConfig(module_width=8, heads_n=2, rank=2, queries_n=2, top_k=4, image_direction_n=12)
WIDTH, ROWS_N, EDITS_N, BATCH_N = 40, 64, 50, 5
routing.FEWEST_EDITS = 8  # thresholds grow with the edits of all devices; one alone has fewer
EDITOR = liveedit.PreparedEditor(
    None, None, None, None, {"scale": jnp.ones(WIDTH), "bias": jnp.ones(1)}
)


def mesh_of_eight():
    devices = np.array(jax.devices())
    assert len(devices) == 8
    return Mesh(devices, (sharded.EXPERT,))


def random_expert(n):
    keys = jax.random.split(jax.random.key(0), 4)
    body = (n, CFG.rank, WIDTH)
    shapes = ((n, CFG.text_key_n), (n, CFG.vision_key_n), body, body)
    return Expert(*(3 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)))


def asked():
    keys = jax.random.split(jax.random.key(1), 3)
    text = jax.random.normal(keys[0], (BATCH_N, CFG.text_key_n))
    vision = jax.random.normal(keys[2], (BATCH_N, CFG.vision_key_n))
    threshold = jnp.asarray([-1e3, 0.5, 1.0, jnp.inf, 1e3])  # all hit, some, some, none, none
    hidden = jax.random.normal(keys[1], (BATCH_N, 7, WIDTH))
    growth = jnp.full(BATCH_N, 0.3)
    return (
        Query(text, vision, threshold, growth),
        hidden,
        jnp.full((BATCH_N, 7), Role.PROMPT, jnp.int8),
    )


def both(storage):
    mesh, expert = mesh_of_eight(), random_expert(EDITS_N)
    ids, valid = jnp.arange(EDITS_N), jnp.arange(EDITS_N) % 7 != 3
    one = repository.init_repository(CFG, WIDTH, ROWS_N, storage)
    one, slot = jax.jit(repository.add_edits)(one, expert, ids, valid)
    many = sharded.init_repository(mesh, CFG, WIDTH, ROWS_N, storage)
    many, slots = jax.jit(partial(sharded.add_edits, mesh), donate_argnums=0)(
        many, expert, ids, valid
    )
    np.testing.assert_array_equal(slot, slots)
    return mesh, one, many


def eight_devices_store_route_and_apply_as_one():
    for precision in Precision:
        mesh, one, many = both(StorageConfig(keys=precision, bodies=precision))
        for leaf in jax.tree.leaves(many):
            rows_n = {shard.data.shape[0] for shard in leaf.addressable_shards if leaf.ndim}
            assert not leaf.ndim or rows_n == {ROWS_N // 8}  # really split
        jax.tree.map(np.testing.assert_array_equal, one, many)
        query, hidden, role = asked()
        found = route(CFG, one, query)
        added = liveedit.residual(CFG, EDITOR, one, hidden, role, found)
        run = jax.jit(partial(sharded.route_and_apply, mesh, CFG))
        other, routes = run(EDITOR, many, query, hidden, role)
        assert int(found.hit_n[0]) > CFG.top_k and 0 < int(found.hit_n[1]) < EDITS_N
        np.testing.assert_array_equal(routes.hit_n, found.hit_n)
        np.testing.assert_allclose(routes.weight, found.weight, atol=1e-5)
        np.testing.assert_allclose(routes.kept, found.kept, atol=1e-5)
        weighs = np.asarray(found.weight) > 0
        np.testing.assert_array_equal(
            np.asarray(routes.slot)[weighs], np.asarray(found.slot)[weighs]
        )
        np.testing.assert_allclose(other, added, atol=1e-5 * float(jnp.abs(added).max()))


def rollback_frees_rows_on_every_device():
    mesh, one, many = both(StorageConfig())
    specs = sharded.row_specs(mesh, many)
    back = jax.shard_map(
        partial(repository.rollback, axis=sharded.EXPERT),
        mesh=mesh,
        in_specs=(specs, jax.sharding.PartitionSpec()),
        out_specs=specs,
        check_vma=False,
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        repository.rollback(one, jnp.asarray(20)),
        jax.jit(back)(many, jnp.asarray(20)),
    )


def only_scores_and_the_residual_cross():
    mesh, _, many = both(StorageConfig())
    query, hidden, role = asked()
    run = jax.jit(partial(sharded.route_and_apply, mesh, CFG))
    text = run.lower(EDITOR, many, query, hidden, role).compile().as_text()
    moved = re.findall(r"= (.*?) (all-\w+|collective-permute)(?:-start)?\(", text)
    assert {kind for _, kind in moved} == {"all-gather", "all-reduce"}
    most = BATCH_N * 7 * WIDTH  # the residual
    for shapes, kind in moved:
        for dims in re.findall(r"\w+\[([\d,]*)\]", shapes):
            n = int(np.prod([int(d) for d in dims.split(",") if d]))
            assert n <= (BATCH_N * 8 * CFG.top_k if kind == "all-gather" else most), (kind, shapes)
