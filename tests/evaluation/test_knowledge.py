"""Questions measured in packed rows, what is asked, and how alike an entity's two drawings are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbones import Backbone
from liveedit_jax.data.composed import STEPS, TWO_FACTS, is_held_out_scene, two_fact_wordings
from liveedit_jax.data.facts import FACTS, SOURCES, entities, split_entities
from liveedit_jax.data.templates import templates, text_questions
from liveedit_jax.data.tokenise import answer_labels, tokenise_pair
from liveedit_jax.evaluation import knowledge, questions
from liveedit_jax.evaluation.knowledge import (
    answer_accuracy,
    fact_accuracy,
    measure_base,
    other_drawing_recall,
)
from liveedit_jax.evaluation.questions import KnowledgeQuestion

A, B = (3, "twemoji"), (8, "openmoji")


def asked_of(pictures, *pairs):
    return [
        KnowledgeQuestion(pictures, prompt, answer, "some", ("all",)) for prompt, answer in pairs
    ]


class Knowing(Backbone):
    """Every answer is right, but for what follows the token `params["lost"]`."""

    def vision_features(self, params, image):
        return jnp.zeros((len(image), 1, self.cfg.width))

    def lower_from_features(self, params, batch, features):
        return batch.token

    def upper(self, params, hidden, batch, at):
        label = jnp.where(hidden == params["lost"], 0, answer_labels(batch, self.cfg.eos_id)[0])
        return jax.nn.one_hot(jnp.take_along_axis(label, at, 1), self.cfg.decoder.vocab_n)


def test_tokens_are_counted_without_eos_and_exactness_with_it(parts):
    tokenizer, backbone = parts.tokenizer, Knowing(parts.backbone.cfg)
    lost = tokenizer.encode(" red")[-1]
    pairs = [("is it", answer) for answer in ("blue", "blue red", "red blue red", "green", "red")]
    asked = asked_of((A,), *pairs, ("red", "blue")) + asked_of((B,), *pairs)
    share, exact = answer_accuracy(backbone, {"lost": lost}, tokenizer, asked, 2, 64)
    for one, tokens, whole in zip(asked, share, exact, strict=True):
        prompt, answer = tokenise_pair(tokenizer, one.prompt, one.answer, backbone.cfg.after_image)
        before = np.array([prompt[-1], *answer]) != lost
        assert tokens == pytest.approx(before[:-1].mean()) and whole == before.all()
    assert (share[1], exact[1]) == (1.0, 0.0) and exact.any()  # only EOS is wrong


@pytest.mark.parametrize("pictures", [(), (A,), (A, B)])
def test_packed_questions_are_measured_as_each_alone(parts, pictures):
    pairs = [("what is red?", "xxxx"), ("say", "red"), ("tell me", "qq")]
    asked = asked_of(pictures, *pairs)
    if pictures:  # the same questions about other pictures
        asked += asked_of(pictures[::-1] if len(pictures) == 2 else (B,), *pairs)
    weights = parts.weights | {"embed": 30 * parts.weights["embed"]}  # the last token comes again
    model = parts.backbone, weights, parts.tokenizer
    together = answer_accuracy(*model, asked, 2, 96)
    alone = [answer_accuracy(*model, [one], 1, 64) for one in asked]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), atol=1e-6)
    assert together[0][0] > together[0][2] > together[0][1] == 0


def test_questions_that_no_row_holds_are_refused(parts):
    model = parts.backbone, parts.weights, parts.tokenizer
    with pytest.raises(ValueError, match="length_n=12 is too short"):
        answer_accuracy(*model, asked_of((A,), ("is it", "red blue green")), 2, 12)
    mixed = asked_of((A,), ("is it", "red")) + asked_of((), ("is it", "red"))
    with pytest.raises(ValueError, match="other numbers of pictures"):
        answer_accuracy(*model, mixed)


def test_the_base_is_asked_for_everything_and_the_sections_agree(parts, monkeypatch):
    few = entities()[:40:4]
    monkeypatch.setattr(knowledge, "entities", lambda: few)
    monkeypatch.setattr(questions, "entities", lambda: few)
    model = parts.backbone, parts.weights, parts.tokenizer
    found = measure_base(*model, 6, batch_n=8, length_n=480)
    assert {"training_templates", "evaluation_templates", "text_only", "scenes"} <= found.keys()
    assert {"two_steps_unseen", "silent_unseen", "two_steps_learned"} <= found.keys()
    assert found["scenes"]["english"]["questions"] == 6 * 4
    assert found["text_only"]["english"]["questions"] == 6 * 5
    shown = questions.drawings(questions.sample(few, 6), held_out=False)
    facts = fact_accuracy(*model, shown, False, 8, 480)
    for name, value in facts.items():
        assert found["training_templates"][name]["tokens"] == pytest.approx(value)
    assert facts["english"] == pytest.approx(np.mean([facts[fact] for fact in FACTS[:5]]))


def test_two_fact_questions_are_in_evaluation_wordings_and_say_both():
    shown = questions.drawings(questions.sample(split_entities("eval"), 30), held_out=False)
    found = questions.two_fact_questions(shown, "unseen")
    assert found == questions.two_fact_questions(shown, "unseen")
    assert len(found) == 2 * questions.PAIRS_N * 30 * len(SOURCES)
    known = {w for pair in TWO_FACTS for w in two_fact_wordings(*pair, evaluation=True)}
    for steps, silent in zip(found[::2], found[1::2], strict=True):
        assert steps.prompt == f"{silent.prompt} {STEPS}" and silent.prompt in known
        first, second = steps.answer.split("; ")
        values = entities()[steps.pictures[0][0]].facts.values()
        assert first in values and second in values and silent.answer == second


def test_scenes_that_are_asked_about_were_kept_for_evaluation():
    found = questions.scene_questions(20)
    assert len({one.pictures for one in found}) == 20
    assert found[:24] == questions.scene_questions(2)
    for one in found:
        left, right = (entities()[i] for i, _ in one.pictures)
        assert is_held_out_scene(left, right) and left.split == right.split == "eval"
        assert one.answer in (right if "right" in one.prompt else left).facts.values()
        evaluation = one.part == "scenes_evaluation_wordings"
        inner = [w for fact in FACTS for w in templates(fact, evaluation) if w in one.prompt]
        assert inner


def test_a_larger_sample_begins_with_the_smaller_one():
    assert questions.sample(entities(), 50)[:10] == questions.sample(entities(), 10)
    assert len(questions.sample(entities(), None)) == len(entities())
    some = questions.sample(entities(), 3)
    asked = questions.text_only_questions(3)
    assert [one.answer for one in asked] == [e.facts[fact] for e in some for fact in FACTS]
    assert asked[0].prompt in text_questions("name", some[0].facts)


def test_other_drawings_count_where_they_beat_the_wrong_ones():
    # three entities along axes of their own; the third's second drawing looks like the first's
    images = np.array([[4, 0], [4, 0], [0, 4], [0, 4], [1, 1], [3, 0]], float)
    scores = images[0::2] @ images[1::2].T
    assert scores.tolist() == [[16, 0, 12], [0, 16, 0], [4, 4, 3]]
    assert other_drawing_recall(images, 1e-3) == pytest.approx(2 / 3)
    assert other_drawing_recall(images, 0.9) == 1.0
    assert other_drawing_recall(images * [1, 0], 1e-3) == pytest.approx(1 / 3)
