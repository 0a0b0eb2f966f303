"""Ours against the textbook in PyTorch that `scale_repository` is timed beside: same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.config import EditorConfig
from liveedit_jax.editor import liveedit, repository
from liveedit_jax.types import Role

CFG = EditorConfig(module_width=16, heads_n=4, rank=3, queries_n=2, top_k=8)
WIDTH, VISION_N, PROMPT_N, ANSWER_N, EDITS_N = 24, 9, 4, 3, 6


@pytest.mark.parity
def test_experts_routes_and_residuals_are_the_textbooks():
    import torch

    from experiments.reference.textbook import Pool, Textbook, append, tensors

    params = liveedit.init_params(jax.random.key(0), CFG, WIDTH, VISION_N)
    params["input"]["sentinel"] = -params["input"]["sentinel"]
    hidden = 2 * jax.random.normal(jax.random.key(1), (EDITS_N, 16, WIDTH)) + 1
    counts = ((Role.VISION, VISION_N), (Role.PROMPT, PROMPT_N), (Role.ANSWER, ANSWER_N))
    role = np.concatenate([np.full(n, kind, np.int8) for kind, n in counts])
    role = jnp.asarray(np.tile(role, (EDITS_N, 1)))
    editor, book = liveedit.prepare(CFG, params), Textbook(CFG, tensors(params))
    made = liveedit.generate_expert(CFG, editor, hidden, role)
    repo = repository.init_repository(CFG, WIDTH, EDITS_N + 2)
    repo, _ = repository.add_edits(repo, made, jnp.arange(EDITS_N), jnp.ones(EDITS_N, bool))

    pool = None
    for i in range(EDITS_N):
        parts = torch.from_numpy(np.array(hidden[i])).split([VISION_N, PROMPT_N, ANSWER_N])
        one = book.make_expert(*parts)
        for name, theirs in vars(one).items():
            ours = np.asarray(getattr(made, name)[i]).reshape(theirs.shape[1:])
            np.testing.assert_allclose(ours, theirs[0], atol=1e-5 * float(theirs.abs().max()))
        pool = one if pool is None else append(pool, one)
    assert isinstance(pool, Pool) and len(pool.down) == EDITS_N

    asked, roles, hits = hidden[:, :-ANSWER_N], role[:, :-ANSWER_N], []
    found = liveedit.route(CFG, repo, liveedit.encode_query(CFG, editor, asked, roles))
    added = liveedit.residual(CFG, editor, repo, asked, roles, found)
    for i in range(EDITS_N):
        image, prompt = torch.from_numpy(np.array(asked[i])).split([VISION_N, PROMPT_N])
        hit, weight = book.route(pool, image, prompt)
        hits.append(int(hit.sum()))
        assert hits[-1] == int(found.hit_n[i])
        ours = {int(s): float(w) for s, w in zip(found.slot[i], found.weight[i], strict=True) if w}
        theirs = dict(zip(np.flatnonzero(hit).tolist(), weight.tolist(), strict=True))
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        want = book.query(pool, image, prompt)
        np.testing.assert_allclose(asked[i] + added[i], want, atol=1e-5 * float(want.abs().max()))
    assert max(hits) > 1  # otherwise nothing was compared
