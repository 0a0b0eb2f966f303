"""Our training loss and gradients against the loop in PyTorch that `bench_training` times."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from small_model import EDITOR, SMALL

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.weights import convert_weights
from liveedit_jax.config import EditMixture, EditorTrainConfig
from liveedit_jax.data.editing import EditingData
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.training.editor import (
    lower_from_features,
    lower_states,
    picture_features,
    row_features,
)
from liveedit_jax.training.editor_loss import editor_loss


@pytest.mark.parity
def test_losses_and_gradients_are_the_textbooks(tokenizer):
    import torch

    from experiments.bench.forward import named_arrays
    from experiments.bench.training import draw_step
    from experiments.reference.originals import torch_llava
    from experiments.reference.textbook import Textbook, tensors
    from experiments.reference.textbook_training import TextbookTraining

    torch.manual_seed(3)
    recipe = EditorTrainConfig(
        batch_n=3, routing_n=5, routing_skip_same=True, routing_repository_n=100, routing_blend=0.5
    )
    mixture = EditMixture(lengths=((60, 1.0),), alike_share=0.0, sibling_share=0.5)
    data = EditingData(tokenizer, SMALL, recipe, mixture)
    image_id = SMALL.pad_id
    net, backbone = torch_llava(SMALL, image_id), Backbone(SMALL)
    weights = convert_weights(SMALL, named_arrays(net))
    editor = replace(EDITOR, expert_scale=5.0, paired_init=False)
    params = init_params(jax.random.key(2), editor, SMALL.width, SMALL.vision_n)
    batch, key = data.batch_at(1), jax.random.key(7)
    pictures = picture_features(backbone, weights, data.pictures())
    features = row_features(pictures, batch)
    hidden = lower_states(backbone, recipe, lower_from_features, weights, features, batch)

    def ours(params):
        return editor_loss(backbone, editor, recipe, weights, params, batch, hidden, key)

    (value, scalars), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    drawn = draw_step(recipe, 5, key)
    theirs = TextbookTraining(SMALL, recipe, net, Textbook(editor, tensors(params)), image_id)
    rows = theirs.rows(batch, data.picture)
    edits = theirs.edit_loss(rows[:3], drawn.masks)
    routing = theirs.routing_loss(rows, drawn, batch.picture.T // 2)
    names = "reliability", "text_generality", "image_generality", "image_locality"
    total = float((edits + routing).detach())
    assert float(edits.detach()) == pytest.approx(
        sum(float(scalars[name]) for name in names), rel=1e-5
    )
    assert total == pytest.approx(float(value), rel=1e-5)
    (edits + routing).backward()
    book = jax.tree_util.tree_leaves_with_path(theirs.book.p, is_leaf=torch.is_tensor)
    for (path, leaf), (ours_path, mine) in zip(
        book, jax.tree_util.tree_leaves_with_path(grads), strict=True
    ):
        assert path == ours_path
        mine = np.asarray(mine).T if path[-1].key == "kernel" else np.asarray(mine)
        given = np.zeros_like(mine) if leaf.grad is None else leaf.grad.numpy()
        most = max(np.abs(mine).max(), 1e-4)
        np.testing.assert_allclose(
            given, mine, atol=1e-4 * most, err_msg=jax.tree_util.keystr(path)
        )  # fmt: skip
