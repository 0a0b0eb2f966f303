"""Exact resume, optimisers against PyTorch, and steps that learn and leave the backbone alone."""

import json
import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_model import EDITOR, SMALL, TINY, small_weights

from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditMixture, EditorTrainConfig, PretrainConfig
from liveedit_jax.data.editing import EditingData, splice_values
from liveedit_jax.data.facts import split_entities
from liveedit_jax.data.images import drawing, normalise_pixels
from liveedit_jax.data.paraphrases import paraphrases
from liveedit_jax.data.pretraining import PretrainingData
from liveedit_jax.data.templates import templates
from liveedit_jax.data.tokenise import answer_labels, without_pixels
from liveedit_jax.editor.losses import answer_nll
from liveedit_jax.training import editor as editor_training
from liveedit_jax.training.editor import lower_from_features
from liveedit_jax.training.editor_loss import answer_samples, editor_loss
from liveedit_jax.training.loop import record_start, saved_step, train
from liveedit_jax.training.optimizers import advance, begin, editor_optimizer
from liveedit_jax.training.pretrain import (
    answer_index,
    contrastive_loss,
    init_state,
    pretrain_loss,
    pretrain_step,
)
from liveedit_jax.types import Role

TOY = optax.sgd(0.1)


@jax.jit
def toy_step(state, batch):
    loss, grads = jax.value_and_grad(lambda p: ((p["w"] - batch) ** 2).sum())(state.params)
    return advance(TOY, state, grads), {"loss": loss}


def fresh():
    return begin(TOY, {"w": jnp.zeros(3)})


def toy_batch(i):
    return np.random.default_rng(i).normal(size=3).astype(np.float32)


def test_a_stopped_run_resumes_bit_for_bit(tmp_path):
    whole, _ = train(toy_step, fresh(), toy_batch, 20, tmp_path / "a", save_every=7)
    for steps_n in (9, 9, 20):
        state, at = train(toy_step, fresh(), toy_batch, steps_n, tmp_path / "b", save_every=4)
        assert at == steps_n
    jax.tree.map(np.testing.assert_array_equal, whole, state)
    assert (tmp_path / "a" / "log.jsonl").read_text().splitlines()


def test_steps_that_are_not_finite_are_skipped_counted_and_too_many_end_the_run(tmp_path):
    def some(i):
        return np.full(3, np.nan, np.float32) if i in (3, 4, 11) else toy_batch(i)

    def good(i):
        return toy_batch([j for j in range(20) if j not in (3, 4, 11)][i])

    state, _ = train(toy_step, fresh(), some, 20, tmp_path / "some")
    same, _ = train(toy_step, fresh(), good, 17, tmp_path / "good")
    np.testing.assert_array_equal(state.params["w"], same.params["w"])
    assert int(state.skipped_n) == 3 and int(state.step) == 20
    logged = json.loads((tmp_path / "some" / "log.jsonl").read_text().splitlines()[-1])
    assert logged["skipped"] == 3 and np.isfinite(logged["loss"])

    def never(i):
        return toy_batch(i) if i < 10 else np.full(3, np.nan, np.float32)

    with pytest.raises(FloatingPointError, match="30 steps up to step 40: lower the rate"):
        train(toy_step, fresh(), never, 60, tmp_path / "never", save_every=5)
    sound, at = train(toy_step, fresh(), toy_batch, 41, tmp_path / "never", log_every=7)
    assert at == 41 and np.isfinite(np.asarray(sound.params["w"])).all()


def test_sigterm_ends_a_run_with_a_checkpoint(tmp_path):
    def batch_at(i):
        if i == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_batch(i)

    before = signal.getsignal(signal.SIGTERM)
    _, at = train(toy_step, fresh(), batch_at, 10**6, tmp_path, save_every=10**6)
    assert saved_step(tmp_path) == at < 10**6
    assert signal.getsignal(signal.SIGTERM) is before
    state, _ = train(toy_step, fresh(), toy_batch, at + 5, tmp_path)
    whole, _ = train(toy_step, fresh(), toy_batch, at + 5, tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, whole, state)


@pytest.mark.parity
@pytest.mark.parametrize("cuts", [(), (2, 4)])
def test_adam_and_its_schedule_equal_torch(cuts):
    import torch

    recipe = EditorTrainConfig(learning_rate=0.01, lr_cut_steps=cuts, lr_cut_rate=0.1)
    start = np.random.default_rng(0).normal(size=5).astype(np.float32)
    ours, theirs = jnp.asarray(start), torch.nn.Parameter(torch.tensor(start))
    optimizer, adam = editor_optimizer(recipe), torch.optim.Adam([theirs], lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: 0.1 ** sum(cut < step for cut in cuts)
    )
    moments = optimizer.init(ours)
    for i in range(8):
        grad = np.random.default_rng(i + 1).normal(size=5).astype(np.float32)
        updates, moments = optimizer.update(jnp.asarray(grad), moments, ours)
        ours = ours + updates
        theirs.grad = torch.tensor(grad)
        adam.step()
        schedule.step()
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_editing_batches_are_fixed_and_use_training_entities_and_wordings(tokenizer, share):
    recipe, mixture = EditorTrainConfig(batch_n=6, seed=4), EditMixture(paraphrase_share=share)
    data = EditingData(tokenizer, TINY.backbone, recipe, mixture)
    first, again, other = data.batch_at(3), data.batch_at(3), data.batch_at(4)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.token != other.token).any()
    known_ids = {entity.id for entity in split_entities("editor_train")}
    assert {entity.id for entity in data.entities} < known_ids
    assert all(entity.held_out is None for entity in data.entities)
    assert first.picture.max() < 2 * len(data.entities)
    edit, text, image, far = (first.picture[k] for k in range(4))
    assert (edit == text).all() and (edit // 2 == image // 2).all() and (edit != image).all()
    from liveedit_jax.data.facts import FACTS

    wordings = [paraphrases(fact) if share else templates(fact, False) for fact in FACTS]
    known = {"\n" + wording for some in wordings for wording in some}
    for k in range(4):
        for token, role in zip(first.token[k], first.role[k], strict=True):
            assert tokenizer.decode(token[role == Role.PROMPT]) in known
            assert (role == Role.ANSWER).any()
    for j in range(6):  # the three edited rows share one target
        answers = [first.token[k, j][first.role[k, j] == Role.ANSWER].tolist() for k in range(3)]
        assert answers[0] == answers[1] == answers[2]


def test_editing_batches_hold_samples_of_similar_length(tokenizer):
    mixture = EditMixture(lengths=((42, 0.4), (46, 0.3), (60, 0.3)))
    data = EditingData(tokenizer, TINY.backbone, EditorTrainConfig(batch_n=4), mixture)
    seen, shorter = set(), {42: 0, 46: 42, 60: 46}
    for step in range(12):
        role = data.batch_at(step).role
        seen.add(role.shape[-1])
        longest = (role != Role.PAD).sum(-1).max(0)  # of a sample's four rows
        assert ((shorter[role.shape[-1]] < longest) & (longest <= role.shape[-1])).all()
    assert seen == {42, 46, 60}


def test_the_editor_step_learns_and_its_loss_has_no_gradient_below(tokenizer):
    backbone = Backbone(SMALL)
    weights = small_weights()
    recipe = EditorTrainConfig(batch_n=4, learning_rate=1e-2)
    data = EditingData(tokenizer, SMALL, recipe, EditMixture(lengths=((60, 1.0),)))
    shape = (2 * len(data.entities), SMALL.vision_n, SMALL.width)
    pictures = jax.random.normal(jax.random.key(2), shape)
    state = editor_training.init_state(backbone, EDITOR, recipe, jax.random.key(1))
    batch, losses = data.batch_at(0), []
    features, lower = editor_training.row_features(pictures, batch), lower_from_features
    for _ in range(30):
        state, scalars = editor_training.jitted_editor_step(
            backbone, EDITOR, recipe, lower, weights, features, state, batch
        )
        losses.append(float(scalars["loss"]))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert {"reliability", "image_locality", "hard_other", "soft_relative"} <= set(scalars)

    def loss(below):
        frozen = weights | {"lower": below}
        hidden = lower_from_features(backbone, frozen, features, batch)
        key = jax.random.key(0)
        return editor_loss(backbone, EDITOR, recipe, frozen, state.params, batch, hidden, key)[0]

    grads = jax.jit(jax.grad(loss))(weights["lower"])
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def test_pretraining_learns_one_batch(tokenizer):
    cfg = PretrainConfig(
        images_n=4,
        scenes_n=2,
        composed_share=0.5,
        view_share=0.3,
        strange_n=2,
        pairs_n=3,
        steps_n=60,
        warmup_steps=1,
    )
    backbone = Backbone(SMALL)
    data = PretrainingData(tokenizer, SMALL, replace(cfg, text_n=1))
    batch = data.batch_at(0)
    jax.tree.map(np.testing.assert_array_equal, batch, data.batch_at(0))
    state, first = init_state(backbone, cfg, jax.random.key(0)), None
    for _ in range(60):
        state, scalars = pretrain_step(backbone, cfg, state, batch)
        first = first or jax.device_get(scalars)
    for term in ("answers", "token", "previous", "index"):
        assert float(scalars[term]) < 0.8 * first[term]
    assert float(scalars["contrastive"]) < first["contrastive"]


def test_pretraining_goes_on_from_given_weights():
    backbone, cfg = Backbone(SMALL), PretrainConfig()
    given = jax.jit(backbone.init)(jax.random.key(7))
    state = init_state(backbone, cfg, jax.random.key(0), given)
    jax.tree.map(np.testing.assert_array_equal, state.params, given)


def test_contrasted_drawings_are_pairs_of_look_alikes(tokenizer):
    cfg = PretrainConfig(images_n=4, strange_n=2, pairs_n=40)
    data = PretrainingData(tokenizer, SMALL, cfg)
    chosen = data.contrast_entities(3)
    assert len({entity.id for entity in chosen}) == 40
    assert len({entity.facts["subcategory"] for entity in chosen}) < 20  # look-alikes meet
    pairs = data.batch_at(3).pairs
    first, second = np.split(pairs, 2)
    for entity, a, b in zip(chosen, first, second, strict=True):
        for picture, source in ((a, "twemoji"), (b, "openmoji")):
            plain = normalise_pixels(drawing(entity.id, source, 60), SMALL.vision)
            np.testing.assert_array_equal(picture, plain)


SEEN = []  # the rows that a `Seeing` backbone was given, and their states


class Seeing(Backbone):
    """States are embeddings, and the features of a picture are its mean and their number."""

    def vision_features(self, params, image):
        tiles_n = 1 if image.ndim == 4 else image.shape[1]
        level = image.mean((-3, -2, -1)).reshape(len(image), tiles_n)
        rows = 10.0 * jnp.arange(self.cfg.vision_n)
        rows = (level[:, :, None] + rows).reshape(len(image), tiles_n * self.cfg.vision_n)
        return jnp.repeat(rows[..., None], self.cfg.width, axis=-1)

    def lower_from_features(self, params, batch, features):
        SEEN.append((batch, self.embed(params, batch, features)))
        return SEEN[-1][1]

    def upper(self, params, hidden, batch, at=None):
        return self.head(params, hidden)

    def head(self, params, states):
        return jnp.zeros((*states.shape[:-1], self.cfg.decoder.vocab_n))


@pytest.mark.parametrize("scenes_n", [0, 2])
def test_every_row_sees_its_own_pictures(tokenizer, scenes_n):
    cfg = PretrainConfig(images_n=4, scenes_n=scenes_n, strange_n=3, pairs_n=3)
    data, backbone = PretrainingData(tokenizer, SMALL, replace(cfg, text_n=2)), Seeing(SMALL)
    batch = jax.tree.map(jnp.asarray, data.batch_at(1))
    embed = jnp.zeros((SMALL.decoder.vocab_n, SMALL.width))
    SEEN.clear()
    pretrain_loss(backbone, cfg, {"embed": embed}, batch)
    (rows, states), (strange, odd), (only, alone) = SEEN
    pictures = [image[None] for image in batch.rows.image] + [scene for scene in batch.scenes]
    pictures += [()] * data.cfg.text_n
    for row, state, shows in (
        *zip(rows.role, states, pictures, strict=True),
        *zip(strange.role, odd, batch.rows.image[: cfg.strange_n, None], strict=True),
        *zip(only.role, alone, batch.pairs[:, None], strict=True),
    ):
        found = state[np.asarray(row) == Role.VISION][:, 0]
        parts = [picture.mean() + 10.0 * jnp.arange(SMALL.vision_n) for picture in shows]
        np.testing.assert_allclose(found, np.concatenate([np.zeros(0), *parts]), atol=1e-4)


def test_answer_index_counts_from_the_last_prompt_token():
    pre, prompt, answer, pad = Role.PRE, Role.PROMPT, Role.ANSWER, Role.PAD
    role = jnp.asarray([[pre, prompt, answer, answer, prompt, prompt, answer, answer, answer, pad]])
    np.testing.assert_array_equal(answer_index(role), [[0, 0, 1, 2, 0, 0, 1, 2, 3, 0]])


def test_spliced_targets_begin_as_one_value_and_end_as_another():
    rng = np.random.default_rng(0)
    for _ in range(200):
        target = splice_values(rng, "smiling face", "grüne Ampel")
        assert 0 < len(target) <= 32 and target[0] == "s"
        begins = max(n for n in range(13) if target.startswith("smiling face"[:n]))
        assert "grüne Ampel".endswith(target[begins:]) or target[begins:].strip() == ""


def test_a_torn_save_is_nothing_to_resume_from(tmp_path):
    assert saved_step(tmp_path) == 0
    (tmp_path / "state" / "500.orbax-checkpoint-tmp").mkdir(parents=True)
    assert saved_step(tmp_path) == 0
    (tmp_path / "state" / "500").mkdir()
    assert saved_step(tmp_path) == 500


def test_a_run_that_goes_on_with_another_recipe_says_so(tmp_path):
    assert record_start(tmp_path, {"rate": 1.0}) == [{"step": 0, "rate": 1.0}]
    (tmp_path / "state" / "500").mkdir(parents=True)
    assert len(record_start(tmp_path, {"rate": 1.0})) == 1  # a plain resume is no news
    assert record_start(tmp_path, {"rate": 0.5})[1] == {"step": 500, "rate": 0.5}
    assert len(record_start(tmp_path, {"rate": 0.5})) == 2


@pytest.mark.parametrize("answers_n", [None, 25])
def test_losses_read_at_answer_positions_are_those_read_everywhere(tokenizer, answers_n):
    backbone = Backbone(SMALL)
    weights = small_weights()
    recipe = EditorTrainConfig(batch_n=3, answers_n=answers_n)
    batch = EditingData(tokenizer, SMALL, recipe, EditMixture(lengths=((60, 1.0),))).batch_at(1)
    rows = without_pixels(batch.token[0], batch.role[0])
    hidden = jax.random.normal(jax.random.key(2), (*rows.token.shape, SMALL.decoder.width))
    some = answer_samples(EDITOR, recipe, backbone, hidden, rows)
    label, answer, eos = answer_labels(rows, SMALL.eos_id)
    upper = jax.jit(backbone.upper)
    want = answer_nll(upper(weights, hidden, rows), label, answer | eos)
    got = answer_nll(upper(weights, hidden, rows, some.at), some.label, some.mask)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_contrastive_loss_prefers_the_other_drawing_of_the_same_entity():
    rows = jnp.eye(4)
    loss, matched = contrastive_loss(jnp.concatenate([rows, rows]), 0.1)
    wrong, unmatched = contrastive_loss(jnp.concatenate([rows, rows[::-1]]), 0.1)
    assert float(matched) == 1 and float(unmatched) == 0 and float(loss) < 0.01 < float(wrong)
