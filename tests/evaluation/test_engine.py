"""The engine against the protocol written out literally, and what it tells of its work."""

from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.editor import liveedit
from liveedit_jax.evaluation.aggregate import mark_figures, unedited_figures
from liveedit_jax.evaluation.batching import make_rows, read_pixels, take
from liveedit_jax.evaluation.chunks import count_cases
from liveedit_jax.evaluation.engine import Engine, Schedule, make_edits
from liveedit_jax.evaluation.probes import Probe, key_of
from liveedit_jax.evaluation.quick import quick_figures
from liveedit_jax.evaluation.subject import empty_state

MARKS, CASES_N = (1, 3, 8), 8


def literal(parts, subject, cases, mark):
    """Fresh repository per chunk, edits one by one, then probes one by one."""
    params, cfg = {"backbone": parts.weights, "editor": parts.trained}, parts.editor.cfg
    edit = jax.jit(liveedit.edit, static_argnums=(0, 1))
    logits = jax.jit(liveedit.logits, static_argnums=(0, 1))

    def request(probe):
        rows = make_rows(subject.tokenizer, parts.backbone.cfg, [probe], subject.shapes)
        batch = take(rows, np.asarray([0]), subject.shapes.long_n)
        side = parts.backbone.cfg.vision.image_size
        image = np.zeros((1, side, side, 3), np.float32)
        if probe.image is not None:
            image[0] = read_pixels(parts.backbone.cfg, probe.image)
        return batch.replace(image=image), rows

    found = {}
    for first in range(0, count_cases(mark, len(cases)), mark):
        chunk = range(first, first + mark)
        repo = liveedit.init(cfg, parts.backbone.cfg.width, max(MARKS))
        for c in chunk:
            batch, _ = request(cases[c].edit)
            one = jnp.full(1, c, jnp.int32)
            repo, _ = edit(cfg, parts.backbone, params, repo, batch, one, jnp.ones(1, bool))
        for c in chunk:
            nth = Counter()
            for probe in cases[c].probes:
                batch, rows = request(probe)
                out, route = logits(cfg, parts.backbone, params, repo, batch)
                ids = np.asarray(out.argmax(-1))[0, rows.position[0, :-1]]
                weights = {
                    int(repo.edit_id[s]): float(w)
                    for s, w in zip(route.slot[0], route.weight[0], strict=True)
                    if w > 0
                }
                found[c, probe.metric, nth[probe.metric]] = (
                    ids[: len(rows.answer[0])].tolist(), int(route.hit_n[0]), weights,
                    float(route.kept[0]), first // mark,
                )  # fmt: skip
                nth[probe.metric] += 1
    return found


@pytest.fixture(scope="module")
def run(parts, cases_of):
    """The engine on a few cases, in two blocks."""
    cases = cases_of(CASES_N)
    subject = parts.subject(cases, 8)
    engine = Engine(subject, cases, Schedule(MARKS, CASES_N, block_n=5))
    found = list(engine.parts())
    lines, fired = ([x for part in found for x in getattr(part, n)] for n in ("lines", "routes"))
    return subject, cases, lines, fired


@pytest.mark.parametrize("mark", MARKS)
def test_batched_equals_literal(parts, run, mark):
    subject, cases, lines, fired = run
    expected = literal(parts, subject, cases, mark)
    lines = {key_of(x): x for x in lines if x["mark"] == mark}
    fired = {key_of(x): x for x in fired if x["mark"] == mark}
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
        if key_of(line) == key_of(route):
            key = (*key_of(line), str(route["experts"]))
            assert by_route.setdefault(key, line["generated"]) == line["generated"]


TUNED = FtL(steps_n=3, learning_rate=3e-2)
FEW = (1, 2, 4)


@pytest.fixture(scope="module")
def tuned(parts, cases_of):
    """Block size -> the parts, costs and progress of an editor without routes."""
    cases = cases_of(4)
    subject = replace(parts, editor=TUNED, trained=None).subject(cases, 4)

    def run(block_n):
        told = []
        engine = Engine(subject, cases, Schedule(FEW, block_n=block_n), tick=told.append)
        return list(engine.parts()), engine, told

    return run


def in_order(found):
    lines = [line for part in found for line in part.lines]
    return sorted(lines, key=lambda line: (line["mark"], line["case"]))


def test_how_many_cases_are_asked_at_once_changes_nothing(tuned):
    runs = [tuned(block_n) for block_n in (1, 2, 8)]
    lines = [in_order(found) for found, _, _ in runs]
    assert lines[0] == lines[1] == lines[2]
    assert [sum(line["mark"] == mark for line in lines[0]) for mark in FEW] == [38] * 3
    assert [part.name for part in runs[1][0]] == [
        f"block_{mark:06d}_{first:06d}" for first in (0, 2) for mark in FEW
    ]
    for _, engine, _ in runs:
        assert sorted(engine.costs) == list(FEW)
        assert all(costs["state_bytes"] > 0 for costs in engine.costs.values())


@pytest.mark.parametrize("block_n", [1, 2, 8])
def test_progress_is_told_edit_by_edit_and_comes_to_all_work(tuned, block_n):
    _, engine, told = tuned(block_n)
    assert sum(told) == engine.work_n == 2 * 4 * len(FEW)  # every case is edited and asked about
    assert told[:2] == [1, 1]


def test_work_that_is_done_is_not_counted(parts, cases_of):
    cases = cases_of(4)
    subject = replace(parts, editor=TUNED, trained=None).subject(cases, 4)
    done = {"block_000001_000000", "block_000004_000000"}
    told = []
    engine = Engine(subject, cases, Schedule(FEW, block_n=2), done.__contains__, tick=told.append)
    assert engine.work_n == (2 + 2) + (4 + 4) + (4 + 2)  # edited and asked at each mark
    assert {part.name for part in engine.parts()}.isdisjoint(done) and sum(told) == engine.work_n


def test_one_state_holds_the_chunks_of_an_editor_that_routes(parts, cases_of):
    cases = cases_of(4)
    engine = Engine(parts.subject(cases, 8), cases, Schedule(FEW))
    assert engine.work_n == 4 + 4 * len(FEW)


def test_costs_are_of_an_edit_that_was_not_made_yet(parts, cases_of):
    cases = cases_of(3)
    subject = replace(parts, editor=TUNED, trained=None).subject(cases, 4)
    requests = [case.edit for case in cases]
    timed, costs = make_edits(subject, requests, 3, 2, (1, 3))
    untimed, _ = make_edits(subject, requests, 3, 8)
    jax.tree.map(np.testing.assert_array_equal, timed, untimed)  # what is timed is a copy
    assert sorted(costs) == [1, 3] and costs[3]["edit_ms"] > 0
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), timed, empty_state(subject, 3))
    assert max(jax.tree.leaves(moved)) > 0


def test_a_chunk_begins_with_the_unedited_model(tuned):
    lines = in_order(tuned(8)[0])
    alone, pairs, _ = ([line for line in lines if line["mark"] == mark] for mark in FEW)
    first = [(a, b) for a, b in zip(alone, pairs, strict=True) if a["case"] == 0]
    assert any(a["after_ids"] != a["before_ids"] for a in alone)
    assert [a["before_ids"] for a in alone] == [b["before_ids"] for b in pairs]
    assert any(a["after_ids"] != b["after_ids"] for a, b in first)  # the second edit has come


def test_a_metric_may_have_several_probes_of_one_case(parts, cases_of):
    cases = cases_of(4)
    more = Probe("same_image", "is it loud?", "soft", cases[1].edit.image)
    cases[1] = replace(cases[1], probes=(*cases[1].probes, more))
    engine = Engine(parts.subject(cases, 8), cases, Schedule((4,)))
    (part,) = engine.parts()
    found = [(x["case"], x.get("nth")) for x in part.lines if x["probe"] == "same_image"]
    twos = [(c, n) for c in range(4) for n in (None, 1)]
    assert found == sorted([*twos, (1, 2)], key=lambda row: (row[0], row[1] or 0))
    assert [x["prompt"] for x in part.lines if x.get("nth") == 2] == ["is it loud?"]
    counts = {"same_image": 9, "same_image_held_out": 4, "look_alike": 2}
    assert unedited_figures(part.lines)["hard_locality_n"] == counts


@pytest.mark.parametrize("editor", [None, TUNED])
def test_quick_figures_are_those_of_a_run_at_its_mark(parts, cases_of, editor):
    cases = cases_of(4)
    own = parts if editor is None else replace(parts, editor=editor, trained=None)
    (part,) = Engine(own.subject(cases, 32), cases, Schedule((4,))).parts()
    (whole,) = mark_figures(part.lines)
    quick = quick_figures(own, cases, {})
    for name in ("reliability", "image_locality", "average"):
        assert quick[name] == pytest.approx(whole[name])
    assert quick["look_alike"] == pytest.approx(whole["hard_locality"]["look_alike"])
    assert ("hits/reliability" in quick) == (editor is None)
    assert quick.get("hits/reliability", 0) == whole["hit_n_by_probe"]["reliability"]
