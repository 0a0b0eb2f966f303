"""Edit streams: fixed by their seed, never answerable from prior knowledge, probes kept apart."""

from collections import Counter

import pytest

from liveedit_jax.data import edit_stream
from liveedit_jax.data.facts import (
    FACTS,
    HELD_OUT_FACTS,
    LANGUAGES,
    SOURCES,
    entities,
    split_entities,
)
from liveedit_jax.data.images import decode_image, drawing
from liveedit_jax.data.stream import editable_facts, retention_questions
from liveedit_jax.data.templates import templates, text_questions
from liveedit_jax.evaluation.cases import make_case, stream_cases
from liveedit_jax.evaluation.metrics import METRICS

SAME = ("same_image", "same_image_held_out")


@pytest.fixture(scope="module")
def stream():
    return list(edit_stream("eval", 3, 400))


def by_emoji():
    return {entity.emoji: entity for entity in entities()}


def test_same_seed_same_stream_and_shorter_is_a_prefix(stream):
    assert list(edit_stream("eval", 3, 50)) == stream[:50]
    other = list(edit_stream("eval", 4, 50))
    assert [(r.entity, r.fact) for r in other] != [(r.entity, r.fact) for r in stream[:50]]


def test_the_eval_split_offers_10080_edits():
    assert len(editable_facts("eval")) == 10_080
    with pytest.raises(ValueError, match="offers 1 to 10080"):
        edit_stream("eval", 0, 10_081)
    with pytest.raises(ValueError, match="never edited"):
        edit_stream("probe", 0, 1)


def test_targets_are_false_and_belong_to_another_entity_of_the_split(stream):
    known, values = by_emoji(), {}
    for record in stream:
        entity = known[record.entity]
        assert entity.split == record.split == "eval" and record.fact != entity.locked_fact
        assert record.pred == entity.facts[record.fact]
        assert record.alt.casefold() != record.pred.casefold() and len(record.alt) <= 32
        if record.fact not in values:
            values[record.fact] = {e.facts[record.fact] for e in split_entities("eval")}
        assert record.alt in values[record.fact]
    pairs = Counter((record.entity, record.fact) for record in stream)
    assert max(pairs.values()) == 1


def test_wordings_and_probes(stream):
    known, probes = by_emoji(), split_entities("probe")
    texts = {value for entity in probes for value in entity.facts.values()}
    for record in stream:
        entity = known[record.entity]
        assert record.src in templates(record.fact, False)
        assert record.rephrase in templates(record.fact, True)
        others = [asked.fact for asked in record.same_image]
        assert others[0] == entity.locked_fact and record.same_image_q in templates(others[0], True)
        assert {*others, record.fact} == set(FACTS) and len(others) == len(FACTS) - 1
        for asked in record.same_image:
            assert asked.question in templates(asked.fact, True)
            assert asked.answer == entity.facts[asked.fact]
        assert record["m_loc_a"] in texts and record["loc_ans"] in texts
        if record.look_alike is not None:
            alike = [e for e in probes if e.facts["subcategory"] == entity.facts["subcategory"]]
            assert record.look_alike_a in {e.facts[record.fact] for e in alike}
    assert sum(record.look_alike is None for record in stream) < 20


def test_portability_follows_from_the_edit_and_contradicts_nothing(stream):
    known, asked = by_emoji(), Counter()
    holders = {(f, v): e for e in entities() for f, v in e.facts.items()}
    for record in stream:
        for port in record.port:
            asked[record.fact] += 1
            entity, holder = known[record.entity], holders[record.fact, record.alt]
            follows = "category" if record.fact == "subcategory" else "name"
            assert port.hops == 1 and port.answer == holder.facts[follows]
            assert port.answer != entity.facts[follows]  # what the unedited fact leads to
            assert port.question not in {asked.question for asked in record.same_image}
    assert set(asked) == {"subcategory", "short_name", *LANGUAGES}
    assert sum(asked.values()) > 0.7 * len(stream)
    chosen = next(record for record in stream if record.port and record.fact == "de")
    assert "German name" in chosen.port[0].question


def test_pictures_are_the_two_drawings_and_a_view_of_the_first(stream):
    for record in stream[:20]:
        entity = by_emoji()[record.entity]
        for field, source in (("image", "twemoji"), ("other_drawing", "openmoji")):
            assert (decode_image(record[field], 60) == drawing(entity.id, source, 60)).all()
        view = decode_image(record.image_rephrase, 60)
        assert view.shape == (60, 60, 3) and (view != drawing(entity.id, "twemoji", 60)).any()
    with pytest.raises(KeyError):
        stream[0]["picture"]


def test_third_drawings_need_a_font(tmp_path):
    with pytest.raises(FileNotFoundError, match="no font file at"):
        edit_stream("eval", 3, 1, noto=tmp_path / "none.ttf")
    (tmp_path / "no.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match="no font with colour bitmaps"):
        next(edit_stream("eval", 3, 1, noto=tmp_path / "no.ttf"))


def test_retention_asks_what_no_stream_edits():
    probes, asked = split_entities("probe"), retention_questions(40)
    assert asked == retention_questions(40) and len(asked) == 80
    assert sum(known.image is None for known in asked) == 40
    texts = {q for e in probes for f in FACTS for q in text_questions(f, e.facts)}
    drawn = {drawing(e.id, s, 60).tobytes() for e in probes for s in SOURCES if s != e.held_out}
    for known in asked:
        if known.image is None:
            assert known.question in texts
        else:
            assert decode_image(known.image, 60).tobytes() in drawn


def test_a_record_becomes_a_case_with_every_probe(stream):
    record = next(r for r in stream if r.look_alike is not None)
    case = make_case(record)
    always = [metric.name for metric in METRICS if metric.always]
    ported = tuple(f"portability_{port.hops}" for port in record.port)
    asked = {probe.metric for probe in case.probes}
    assert asked | {"third_drawing"} == {*always, *ported, "third_drawing"}
    assert case.probes_of("text_locality")[0].image is None and case.edit.image == record.image
    assert case.probes_of("image_generality")[0].image == record.image_rephrase
    assert case.probes_of("other_drawing")[0].image == record.other_drawing
    held_out = [asked for asked in record.same_image if asked.fact in HELD_OUT_FACTS]
    assert len(case.probes_of("same_image_held_out")) == len(held_out) in (3, 4)
    assert len(case.probes_of("same_image")) == len(record.same_image) - len(held_out)


def test_the_same_image_is_asked_what_no_edit_changes():
    records = list(edit_stream("eval", 3, 400))
    edited = {(record.entity, record.fact) for record in records}
    cases = stream_cases("eval", 3, 400, 60)
    asked_n = [len(case.probes_of("same_image")) for case in cases]
    assert max(asked_n) == 9 and min(asked_n) < 8  # of nine facts that are not held out
    for record, case in zip(records, cases, strict=True):
        questions = {probe.prompt for name in SAME for probe in case.probes_of(name)}
        kept = {o.question for o in record.same_image if (record.entity, o.fact) not in edited}
        assert questions == kept and record.same_image_q in kept
