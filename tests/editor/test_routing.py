"""Hard and soft routing on hand-worked numbers, and what routing never does."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import liveedit, losses, repository
from liveedit_jax.editor.routing import margin, nearest, route, soft_weights, vision_scores
from liveedit_jax.types import Expert, Query, Role

CFG = EditorConfig(module_width=4, heads_n=2, rank=2, queries_n=1, top_k=3, expert_scale=1.0)
SCALE = 4**0.5


@pytest.fixture(scope="module")
def stored():
    """Five edits whose vision and text similarity with the query below are the given ones."""
    vision = jnp.asarray([3.0, 1.0, 2.5, -1.0, 4.0]) * SCALE
    text = jnp.asarray([0.0, 9.0, 1.0, 9.0, 2.0]) * SCALE
    unit = jnp.eye(4)[0]
    body = jax.random.normal(jax.random.key(0), (2, 5, 2, 6))
    repo = repository.init_repository(CFG, 6, 7)
    expert = Expert(text[:, None] * unit, vision[:, None] * unit, *body)
    repo, _ = repository.add_edits(repo, expert, jnp.arange(5), jnp.ones(5, bool))
    return repo


def query(threshold):
    unit = jnp.eye(4)[0][None]
    return Query(unit, unit, jnp.asarray([threshold], jnp.float32))


def expected_weights(scores):
    e = np.exp(scores - np.max(scores))
    return e / e.sum() / (1 + np.exp(-np.asarray(scores)))


def test_hand_worked_weights(stored):
    found = route(CFG, stored, query(2.0))  # vision 3, 2.5 and 4 pass; texts 0, 1, 2
    assert int(found.hit_n[0]) == 3 and float(found.kept[0]) == pytest.approx(1)
    assert np.asarray(found.slot[0]).tolist() == [4, 2, 0]
    np.testing.assert_allclose(found.weight[0], expected_weights([2.0, 1.0, 0.0]), rtol=1e-5)


def test_the_threshold_is_strict_and_the_softmax_runs_over_all_hits(stored):
    assert int(route(CFG, stored, query(3.0)).hit_n[0]) == 1
    found = route(CFG, stored, query(0.0))  # four hits, three kept
    every = expected_weights([0.0, 9.0, 1.0, 2.0])
    assert int(found.hit_n[0]) == 4
    np.testing.assert_allclose(found.weight[0], [every[1], every[3], every[2]], rtol=1e-5)
    assert float(found.kept[0]) == pytest.approx((every.sum() - every[0]) / every.sum(), rel=1e-5)


def test_the_margin_is_the_best_living_score_over_the_sentinels(stored):
    assert float(margin(CFG, stored, query(2.25))[0]) == pytest.approx(1.75)  # 4 over 2.25
    assert float(margin(CFG, stored, query(5.0))[0]) == pytest.approx(-1)
    early = jnp.asarray(3)  # the fifth edit, which scores 4, is not there yet
    assert float(margin(CFG, stored, query(2.0), early)[0]) == pytest.approx(1)
    assert float(margin(CFG, stored, query(2.0), jnp.asarray(0))[0]) == -np.inf
    assert float(margin(CFG, stored, query(jnp.inf))[0]) == -np.inf


def test_a_growing_threshold_counts_the_edits_that_are_live_at_the_moment_asked_for():
    n, unit = 300, jnp.eye(4)[0]
    repo = repository.init_repository(CFG, 6, 320)
    keys = jnp.broadcast_to(2.0 * SCALE * unit, (n, 4))
    expert = Expert(keys, keys, *jnp.ones((2, n, 2, 6)))
    repo, _ = repository.add_edits(repo, expert, jnp.arange(n), jnp.ones(n, bool))
    asked = query(1.0).replace(growth=jnp.asarray([1.0]))
    for at in (50, 100, 271, 273, 300):  # at 100 e = 271.8 edits, 1 + 1 is not below 2 any more
        moments = jnp.asarray([[at]])
        hit_n = int(route(CFG, repo, asked, moments).hit_n[0])
        assert hit_n == (at if at < 272 else 0)
        want = 1.0 - np.log(max(at, 100) / 100)
        assert float(margin(CFG, repo, asked, moments)[0]) == pytest.approx(want, abs=1e-5)
    gone = repository.delete_edits(repo, jnp.arange(100))
    assert int(route(CFG, gone, asked).hit_n[0]) == 200
    assert int(route(CFG, repo, query(1.0)).hit_n[0]) == 300


def test_the_nearer_picture_wins_where_texts_count_together_with_pictures(stored):
    joint = replace(CFG, joint_scale=4.0)
    found = route(joint, stored, query(2.0))  # vision 3, 2.5 and 4 pass; texts 0, 1, 2
    both = np.asarray([4 * 4.0 + 2, 4 * 2.5 + 1, 4 * 3.0 + 0])
    share = np.exp(both - both.max()) / np.exp(both - both.max()).sum()
    weight = share / (1 + np.exp(-np.asarray([2.0, 1.0, 0.0])))
    order = np.argsort(-weight)
    assert np.asarray(found.slot[0]).tolist() == np.asarray([4, 2, 0])[order].tolist()
    np.testing.assert_allclose(found.weight[0], weight[order], rtol=1e-5)
    assert int(found.hit_n[0]) == 3


def test_the_nearest_experts_say_how_far_they_are_from_firing(stored):
    asked = query(2.75)  # vision 3 and 4 pass
    vision = vision_scores(CFG, stored, asked)
    found = nearest(CFG, stored, asked, 3, vision)
    assert np.asarray(found.slot[0]).tolist() == [4, 0, 2]
    np.testing.assert_allclose(found.image[0], [1.25, 0.25, -0.25], atol=1e-6)
    np.testing.assert_allclose(found.text[0], [2, 0, 1], atol=1e-6)
    assert int(route(CFG, stored, asked, vision=vision).hit_n[0]) == int((found.image > 0).sum())
    gone = repository.delete_edits(stored, jnp.asarray([4, 0]))
    found = nearest(CFG, gone, asked, 9, vision)  # three live rows of seven
    assert np.asarray(found.slot[0])[:3].tolist() == [2, 1, 3]
    assert np.isneginf(np.asarray(found.image[0])[3:]).all() and found.slot.shape == (1, 7)


def test_no_image_and_no_hit_leave_the_model_untouched(stored):
    hidden = jax.random.normal(jax.random.key(1), (1, 3, 6))
    role = jnp.full((1, 3), Role.PROMPT, jnp.int8)
    editor = liveedit.PreparedEditor(
        None, None, None, None, {"scale": jnp.ones(6), "bias": jnp.ones(6)}
    )
    for threshold in (9.0, jnp.inf):
        found = route(CFG, stored, query(threshold))
        added = liveedit.residual(CFG, editor, stored, hidden, role, found)
        assert int(found.hit_n[0]) == 0 and not np.asarray(added).any()
        assert float(found.kept[0]) == 1.0


def test_the_residual_is_the_sum_over_hits(stored):
    hidden = jax.random.normal(jax.random.key(1), (1, 3, 6))
    role = jnp.asarray([[Role.VISION, Role.PROMPT, Role.PAD]], jnp.int8)
    norm = {"scale": jnp.full(6, 1.5), "bias": jnp.full(6, 0.2)}
    editor = liveedit.PreparedEditor(None, None, None, None, norm)
    found = route(CFG, stored, query(2.0))
    added = np.asarray(liveedit.residual(CFG, editor, stored, hidden, role, found))
    x = np.asarray(hidden[0], np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * 1.5 + 0.2
    want = 0
    for row, weight in zip((4, 2, 0), expected_weights([2.0, 1.0, 0.0]), strict=True):
        down, up = np.asarray(stored.down.value[row]), np.asarray(stored.up.value[row])
        want = want + weight * np.maximum(x @ down.T, 0) @ up
    np.testing.assert_allclose(added[0, :2], want[:2], atol=1e-5)
    assert not added[0, 2].any()


def test_dead_and_later_edits_are_not_hit(stored):
    gone = repository.delete_edits(stored, jnp.asarray([4]))
    assert int(route(CFG, gone, query(2.0)).hit_n[0]) == 2
    assert int(route(CFG, gone, query(2.0), at=jnp.asarray(5)).hit_n[0]) == 3
    assert int(route(CFG, stored, query(2.0), at=jnp.asarray(1)).hit_n[0]) == 1


def test_one_query_at_a_time_equals_a_batch(stored):
    keys = jax.random.normal(jax.random.key(2), (4, 4))
    both = Query(keys, keys[::-1], jnp.asarray([0.0, -1.0, 0.5, jnp.inf]))
    together = route(CFG, stored, both)
    for b in range(4):
        alone = route(CFG, stored, jax.tree.map(lambda leaf, b=b: leaf[b : b + 1], both))
        jax.tree.map(
            lambda x, y, b=b: np.testing.assert_allclose(x[b : b + 1], y, rtol=1e-6),
            together,
            alone,
        )


def test_weights_over_an_empty_mask_are_zero():
    weights = soft_weights(jnp.ones((2, 3)), jnp.asarray([[False] * 3, [True] * 3]))
    assert not np.asarray(weights[0]).any() and np.asarray(weights[1]).all()


def test_soft_routing_loss_on_hand_worked_numbers():
    score = jnp.asarray([[2.0, 0.0], [1.0, 3.0]])
    relative, absolute = losses.soft_routing(score)
    p = [np.exp(2) / (np.exp(2) + 1), np.exp(3) / (np.exp(3) + np.exp(1))]
    assert float(relative) == pytest.approx(-np.mean(np.log(p)), rel=1e-5)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    want = np.log(sigmoid(np.array([2, 3]))) + np.log(1 - sigmoid(np.array([0, 1])))
    assert float(absolute) == pytest.approx(-want.mean(), rel=1e-5)


def test_soft_routing_loss_is_finite_where_sigmoids_saturate():
    score = jnp.asarray([[-90.0, 90.0], [90.0, -90.0]])
    value, slope = jax.jit(jax.value_and_grad(lambda s: sum(losses.soft_routing(s))))(score)
    assert np.isfinite(float(value)) and np.isfinite(np.asarray(slope)).all()


def test_hard_routing_loss_on_hand_worked_numbers():
    score, threshold = jnp.asarray([[2.0, 0.0], [1.0, 3.0]]), jnp.asarray([1.0, -1.0])
    e = np.exp(np.array([[2.0, 0, 1], [1, 3, -1]]))
    p = e / e.sum(1, keepdims=True)
    assert float(losses.hard_routing(score, threshold, True)) == pytest.approx(
        -np.mean(np.log([p[0, 0], p[1, 1]])), rel=1e-5
    )
    assert float(losses.hard_routing(score, threshold, False)) == pytest.approx(
        -np.mean(np.log(p[:, 2])), rel=1e-5
    )


def test_locality_directions_differ_and_both_vanish_on_equal_logits():
    a, b = jnp.asarray([[[1.0, 0.0]]]), jnp.asarray([[[0.0, 2.0]]])
    mask = jnp.ones((1, 1), bool)
    p = np.exp([1.0, 0]) / np.exp([1.0, 0]).sum()
    q = np.exp([0.0, 2]) / np.exp([0.0, 2]).sum()
    forward = losses.locality_kl(a, b, mask, "edited_to_original")
    backward = losses.locality_kl(a, b, mask, "original_to_edited")
    assert float(forward) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    assert float(backward) == pytest.approx((q * np.log(q / p)).sum(), rel=1e-5)
    assert float(losses.locality_kl(a, a, mask, "edited_to_original")) == 0
    assert float(losses.locality_kl(a, b, ~mask, "edited_to_original")) == 0


def test_eos_counts_only_where_it_is_trained():
    answer, eos = jnp.asarray([[True, False]]), jnp.asarray([[False, True]])
    with_eos = losses.generation_mask(EditorConfig(train_eos=True), answer, eos)
    without = losses.generation_mask(EditorConfig(train_eos=False), answer, eos)
    assert with_eos.tolist() == [[True, True]] and without.tolist() == [[True, False]]


def test_bad_editor_settings_are_named():
    with pytest.raises(ValueError, match="locality_kl"):
        EditorConfig(locality_kl="both")
    with pytest.raises(ValueError, match="not a multiple of heads_n"):
        EditorConfig(module_width=10, heads_n=4)
    with pytest.raises(TypeError, match="unexpected keyword"):
        EditorConfig(rnak=4)
