"""Teacher forcing decides about free generation as decoding does."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from liveedit_jax.baselines import layer
from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.evaluation.batching import make_rows, take
from liveedit_jax.evaluation.blocks import make_block
from liveedit_jax.evaluation.decode import CUT, Decoder, decodes_to_target
from liveedit_jax.evaluation.metrics import EDIT
from liveedit_jax.evaluation.subject import empty_state, encode, vision_features


@pytest.fixture(scope="module")
def taught(parts, cases_of):
    """A model that was fine-tuned until it knows some targets, EOS included."""
    cases = cases_of(4)
    subject = parts.subject(cases, 8)
    probes = [case.edit for case in cases]
    rows = make_rows(subject.tokenizer, parts.backbone.cfg, probes, subject.shapes)
    params = {"backbone": parts.weights}
    features = np.stack(vision_features(subject, probes))
    batch = take(rows, np.arange(4), subject.shapes.long_n)
    editor = FtL(learning_rate=2e-2, steps_n=600, stop_loss=0.05)
    states = editor.encode(parts.backbone, params, batch, features)
    state = editor.init(parts.backbone, params, 4)
    state = jax.jit(editor.edit, static_argnums=0)(parts.backbone, params, state, states, batch)
    weights = layer.replace_mlp(parts.backbone, parts.weights, state)
    own = replace(parts, weights=weights, editor=FtL(), trained=None)
    subject = own.subject(cases, 8)
    return subject, encode(subject, probes), probes


def test_decided_answers_are_what_greedy_decoding_gives(taught):
    subject, encoded, probes = taught
    rows, ids, decoder = encoded.rows, encoded.before, Decoder(subject)
    known = [i for i in range(4) if decodes_to_target(rows, ids, i, decoder.eos_id)]
    assert known  # the model was taught
    made = decoder.decode(rows, probes, known)
    for i in known:
        path = [*rows.answer[i], decoder.eos_id]
        assert made[i][: len(path)] == path
        assert decoder.detokenise(made[i], len(rows.answer[i])) == probes[i].target.strip()
    shortcut, forced = (
        [
            decoder.detokenise(said, len(answer))
            for said, answer in zip(found, rows.answer, strict=True)
        ]
        for found in (
            Decoder(subject).decode_unedited(encoded, probes),
            Decoder(subject).decode_unedited(undecided(encoded), probes),
        )
    )
    assert shortcut == forced


def undecided(encoded):
    return replace(encoded, before=np.full_like(encoded.before, -1))


def test_a_wrong_token_or_a_missing_eos_is_not_decided(taught):
    subject, encoded, _ = taught
    rows, ids, eos = encoded.rows, encoded.before, subject.tokenizer.eos_id
    i = next(i for i in range(4) if decodes_to_target(rows, ids, i, eos))
    for at in (0, len(rows.answer[i])):
        wrong = ids.copy()
        wrong[i, at] = 5
        assert not decodes_to_target(rows, wrong, i, eos)


def test_equal_questions_are_decoded_once(taught, monkeypatch):
    subject, encoded, probes = taught
    decoder, calls = Decoder(subject), []
    real = Decoder.decode
    monkeypatch.setattr(
        Decoder,
        "decode",
        lambda self, rows, probes, chosen, plan=None: (
            calls.append(len(chosen)) or real(self, rows, probes, chosen, plan)
        ),
    )
    first = decoder.decode_unedited(undecided(encoded), probes)
    second = decoder.decode_unedited(undecided(encoded), probes)
    assert first == second and calls == [4, 0]


def test_a_path_tells_what_generation_says_as_far_as_it_goes(taught):
    subject, encoded, probes = taught
    decoder = Decoder(subject)
    said = decoder.decode_unedited(encoded, probes)
    for targeted in (True, False):
        paths = decoder.encode_references(encoded.rows, probes, [targeted] * 4, said)
        walked = decoder.decode_along(empty_state(subject, 1), paths, encoded.before, range(4))
        for i, text in walked.items():
            whole = decoder.detokenise(said[i], len(encoded.rows.answer[i]))
            assert whole.startswith(text.removesuffix(CUT))
            assert targeted or text == whole  # the path is what the unedited model generates


def test_the_generated_text_is_cut_at_2a_plus_8_tokens(taught):
    subject, _, _ = taught
    ids = subject.tokenizer.encode("red blue green sharp round tiny old new " * 4)
    assert Decoder(subject).detokenise(ids, 3) == subject.tokenizer.decode(ids[:14]).strip()


def test_blocks_keep_the_edits_in_front(cases_of):
    block = make_block(cases_of(3), 7)
    assert [probe.metric for probe in block.probes[:3]] == [EDIT] * 3
    assert block.case[:3].tolist() == [7, 8, 9]
