"""What teacher forcing decides about free generation is what decoding gives."""

import jax
import numpy as np
import pytest

from liveedit_jax.baselines import layer
from liveedit_jax.baselines.ft_l import FtL
from liveedit_jax.evaluation import predict, protocol
from liveedit_jax.evaluation.decode import Decoder, decided
from liveedit_jax.evaluation.layout import make_rows, take
from liveedit_jax.evaluation.probes import EDIT


@pytest.fixture(scope="module")
def taught(parts, subject_of, cases_of):
    """A model that was fine-tuned until it knows some targets, EOS included."""
    cases = cases_of(4)
    subject = subject_of(cases)
    probes = [case.probes[EDIT] for case in cases]
    rows = make_rows(subject.tokenizer, parts.backbone.cfg, probes, subject.shapes)
    params = {"backbone": parts.weights}
    features = np.stack(predict.vision_features(subject, [p.image for p in probes], {}))
    batch = take(rows, np.arange(4), subject.shapes.long_n)
    editor = FtL(learning_rate=2e-2, steps_n=600, stop_loss=0.05)
    states = editor.encode(parts.backbone, params, batch, features)
    state = editor.init(parts.backbone, params, 4)
    state = jax.jit(editor.edit, static_argnums=0)(parts.backbone, params, state, states, batch)
    weights = layer.with_mlp(parts.backbone, parts.weights, state)
    ids = predict.unedited_ids(parts.backbone, weights, batch, features, rows.position)
    return subject, weights, rows, probes, np.asarray(ids)


def test_decided_answers_are_what_greedy_decoding_gives(taught):
    subject, weights, rows, probes, ids = taught
    known = [i for i in range(4) if decided(rows, ids, i, subject.tokenizer.eos_id)]
    assert known  # the model was taught
    decoder = Decoder(subject, weights, {})
    made = decoder.decode(rows, probes, known)
    for i in known:
        path = [*rows.answer[i], subject.tokenizer.eos_id]
        assert made[i][: len(path)] == path
        assert decoder.text(made[i], len(rows.answer[i])) == probes[i].target.strip()
    shortcut = Decoder(subject, weights, {}).unedited(rows, probes, ids)
    forced = Decoder(subject, weights, {}).unedited(rows, probes, np.full_like(ids, -1))
    assert shortcut == forced


def test_a_wrong_token_or_a_missing_eos_is_not_decided(taught):
    subject, _, rows, _, ids = taught
    eos = subject.tokenizer.eos_id
    i = next(i for i in range(4) if decided(rows, ids, i, eos))
    for at in (0, len(rows.answer[i])):
        wrong = ids.copy()
        wrong[i, at] = 5
        assert not decided(rows, wrong, i, eos)


def test_equal_questions_are_decoded_once(taught, monkeypatch):
    subject, weights, rows, probes, ids = taught
    decoder, calls = Decoder(subject, weights, {}), []
    real = Decoder.decode
    monkeypatch.setattr(
        Decoder,
        "decode",
        lambda self, rows, probes, chosen, plan=None: (
            calls.append(len(chosen)) or real(self, rows, probes, chosen, plan)
        ),
    )
    first = decoder.unedited(rows, probes, np.full_like(ids, -1))
    second = decoder.unedited(rows, probes, np.full_like(ids, -1))
    assert first == second and calls == [4, 0]


def test_the_generated_text_is_cut_at_2a_plus_8_tokens(taught):
    subject, weights, _, _, _ = taught
    ids = subject.tokenizer.encode("red blue green sharp round tiny old new " * 4)
    said = Decoder(subject, weights, {}).text(ids, 3)
    assert said == subject.tokenizer.decode(ids[:14]).strip()


def test_blocks_keep_the_edits_in_front(cases_of):
    block = protocol.block_of(cases_of(3), 7)
    assert block.kind[:3] == [EDIT] * 3 and block.case[:3].tolist() == [7, 8, 9]
