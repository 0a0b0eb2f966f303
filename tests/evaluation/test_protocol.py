"""The batched protocol against the protocol written out literally."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.editor import liveedit
from liveedit_jax.evaluation import protocol
from liveedit_jax.evaluation.chunks import counted_n, with_chunks
from liveedit_jax.evaluation.decode import Decoder
from liveedit_jax.evaluation.layout import make_rows, pixels, take
from liveedit_jax.evaluation.probes import EDIT, PROBES
from liveedit_jax.evaluation.timing import fill

MARKS, CASES_N = (1, 3, 8), 8


def literal(parts, subject, cases, mark):
    """Fresh repository per chunk, edits one by one, then probes one by one."""
    params = {"backbone": parts.weights, "editor": parts.editor}
    edit = jax.jit(liveedit.edit, static_argnums=(0, 1))
    logits = jax.jit(liveedit.logits, static_argnums=(0, 1))

    def request(probe):
        rows = make_rows(subject.tokenizer, parts.backbone.cfg, [probe], subject.shapes)
        batch = take(rows, np.asarray([0]), subject.shapes.long_n)
        side = parts.backbone.cfg.vision.image_size
        image = np.zeros((1, side, side, 3), np.float32)
        if probe.image is not None:
            image[0] = pixels(parts.backbone.cfg, probe.image)
        return batch.replace(image=image), rows

    found = {}
    for first in range(0, counted_n(mark, len(cases)), mark):
        chunk = range(first, first + mark)
        repo = liveedit.init(parts.cfg, parts.backbone.cfg.width, max(MARKS))
        for c in chunk:
            batch, _ = request(cases[c].probes[EDIT])
            one = jnp.full(1, c, jnp.int32)
            repo, _ = edit(parts.cfg, parts.backbone, params, repo, batch, one, jnp.ones(1, bool))
        for c in chunk:
            for kind in (k for k in PROBES if k in cases[c].probes):
                batch, rows = request(cases[c].probes[kind])
                out, route = logits(parts.cfg, parts.backbone, params, repo, batch)
                ids = np.asarray(out.argmax(-1))[0, rows.position[0, :-1]]
                weights = {
                    int(repo.edit_id[s]): float(w)
                    for s, w in zip(route.slot[0], route.weight[0], strict=True)
                    if w > 0
                }
                found[c, kind] = (
                    ids[: len(rows.answer[0])].tolist(), int(route.hit_n[0]), weights,
                    float(route.kept[0]), first // mark,
                )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def run(parts, subject_of, cases_of):
    """The batched protocol on a few cases."""
    cases = cases_of(CASES_N)
    subject = subject_of(cases)
    block = protocol.block_of(cases, 0)
    encoded = protocol.encode_probes(subject, block.probes, {})
    expert = protocol.make_experts(subject, encoded, range(CASES_N))
    repo, _ = fill(subject, expert, CASES_N, (), None, False)
    repositories = {mark: (with_chunks(repo, mark), False) for mark in MARKS}
    repositories[CASES_N] = (repo, True)
    lines, fired = protocol.evaluate_block(
        subject,
        Decoder(subject, parts.weights, {}),
        block,
        encoded,
        lambda mark: repositories[mark],
        MARKS,
        CASES_N,
    )
    return subject, cases, lines, fired


@pytest.mark.parametrize("mark", MARKS)
def test_batched_equals_literal(parts, run, mark):
    subject, cases, lines, fired = run
    expected = literal(parts, subject, cases, mark)
    lines = {(x["case"], x["probe"]): x for x in lines if x["mark"] == mark}
    fired = {(x["case"], x["probe"]): x for x in fired if x["mark"] == mark}
    assert lines.keys() == expected.keys()
    hit_n = 0
    for key, (ids, hits, weights, kept, chunk) in expected.items():
        assert lines[key]["after_ids"] == ids
        assert lines[key]["hit_n"] == hits
        assert ("margin" in lines[key]) == (key[1] != "text_locality")
        assert (lines[key].get("margin", -1) > 0) == (hits > 0)
        assert lines[key]["chunk"] == chunk
        assert (key in fired) == (hits > 0)
        if hits:
            got = dict(fired[key]["experts"])
            assert got.keys() == weights.keys()
            np.testing.assert_allclose([got[c] for c in weights], list(weights.values()), rtol=1e-5)
            assert abs(fired[key]["kept"] - kept) < 1e-5
            hit_n += 1
    assert 0 < hit_n < len(expected)  # both kinds of probe occurred


def test_edits_change_answers_and_misses_keep_them(run):
    _, _, lines, _ = run
    assert any(x["after_ids"] != x["before_ids"] for x in lines)
    missed = [x for x in lines if x["hit_n"] == 0]
    assert missed
    for x in missed:
        assert x["after_ids"] == x["before_ids"]
        assert x["generated"] == x["before_generated"]
    assert all(x["hit_n"] == 0 for x in lines if x["probe"] == "text_locality")


def test_generation_uses_the_route_at_every_mark(parts, run):
    subject, cases, lines, fired = run
    assert any(x["generated"] != x["before_generated"] for x in lines)
    by_route = {}
    for line, route in ((x, r) for x in lines for r in fired if r["mark"] == x["mark"]):
        if (line["case"], line["probe"]) == (route["case"], route["probe"]):
            key = (line["case"], line["probe"], str(route["experts"]))
            assert by_route.setdefault(key, line["generated"]) == line["generated"]
