"""Random masks and pairs have the distribution the method states; the double layer is a switch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorTrainConfig
from liveedit_jax.editor.losses import hard_routing
from liveedit_jax.editor.objective import draw_masks, draw_pairs

OWNER = jnp.asarray([0, 0, 1, 2, 2, 3])
REQUEST = jnp.asarray([1, 2, 3, 5])


def test_masks_are_prefixes_and_own_experts():
    empty_n, sizes = 0, []
    for seed in range(200):
        masks = jax.tree.map(np.asarray, draw_masks(jax.random.key(seed), OWNER, REQUEST))
        for j in range(4):
            own = np.asarray(OWNER) == j
            drawn = np.arange(6) == int(REQUEST[j])
            for mask, added in (
                (masks.reliability[j], drawn),
                (masks.generality[j], own),
                (masks.locality[j], np.zeros(6, bool)),
            ):
                assert mask[added].all()
                assert any(np.array_equal(mask, (np.arange(6) < k) | added) for k in range(7))
            empty_n += not masks.locality[j].any()
            sizes.append(masks.locality[j].sum())
    assert 0.08 < empty_n / 800 < 0.22  # 1 in 7
    assert abs(np.mean(sizes) - 3) < 0.3 and set(sizes) == set(range(7))


def test_pairs_have_the_stated_shares():
    both_locality = same_edit = edit_side = coin = total = 0
    for seed in range(40):
        pairs = jax.tree.map(np.asarray, draw_pairs(jax.random.key(seed), 32, 4))
        (n0, n1), (o0, o1) = pairs.neighbours, pairs.others
        assert set(np.concatenate([n0, n1, o0, o1])) <= {0, 1, 2, 3}
        both = (n0 == 3) & (n1 == 3)
        assert ((n0 == 3) == (n1 == 3)).all()
        assert ((o0 == 3) ^ (o1 == 3)).all()
        both_locality += both.sum()
        edit_side += (n0[~both] == 0).sum()
        same_edit += (~both).sum()
        coin += (o0 == 3).sum()
        total += 32
    assert abs(both_locality / total - 1 / 3) < 0.05
    assert abs(edit_side / same_edit - 1 / 2) < 0.06
    assert abs(coin / total - 1 / 2) < 0.05


def test_without_generalities_every_side_is_the_edit():
    pairs = draw_pairs(jax.random.key(0), 8, 2)
    assert set(np.asarray(pairs.others).sum(0)) == {1}


SCORE = jnp.array([[2.0, 1.0, 0.5], [0.0, 3.0, -1.0], [1.5, 0.2, 1.0]])
THRESHOLD = jnp.array([0.3, -0.4, 0.9])


@pytest.mark.parametrize("neighbours", [True, False])
def test_pairs_about_one_subject_are_no_negatives_of_each_other(neighbours):
    same = jnp.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    loss = hard_routing(SCORE, THRESHOLD, neighbours, same)
    total = 0.0
    for j in range(3):
        rivals = [SCORE[j, k] for k in range(3) if not same[j, k]]
        right = SCORE[j, j] if neighbours else THRESHOLD[j]
        every = [*rivals, THRESHOLD[j], *([right] if neighbours else [])]
        total -= right - jax.nn.logsumexp(jnp.array(every))
    assert float(loss) == pytest.approx(float(total) / 3, abs=1e-5)


@pytest.mark.parametrize("neighbours", [True, False])
def test_negatives_weigh_as_if_the_repository_held_so_many(neighbours):
    """Every negative 10 times over, the right pair and the sentinel once."""
    loss = hard_routing(SCORE, THRESHOLD, neighbours, repository_n=30)
    total = 0.0
    for j in range(3):
        rivals = [SCORE[j, k] for k in range(3) if not (neighbours and k == j)]
        right = SCORE[j, j] if neighbours else THRESHOLD[j]
        every = [*rivals * 10, THRESHOLD[j], *([right] if neighbours else [])]
        total -= right - jax.nn.logsumexp(jnp.array(every))
    assert float(loss) == pytest.approx(float(total) / 3, abs=1e-5)
    assert hard_routing(SCORE, THRESHOLD, neighbours, repository_n=3) == hard_routing(
        SCORE, THRESHOLD, neighbours
    )


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples"):
        replace(EditorTrainConfig(), batch_n=1)
