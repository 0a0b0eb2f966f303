"""LLaVA-NeXT: parity with Hugging Face on pictures of several shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_parity import compare_model, numpy_state, shaken

from liveedit_jax.backbone_config import AnyresConfig
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones import weights as checkpoint
from liveedit_jax.backbones.llava_convert import config_from_hf
from liveedit_jax.data.tiling import best_grid, token_rows
from liveedit_jax.types import Batch, Role

SIDE, PATCH, IMAGE_ID = 12, 4, 49


@pytest.mark.parity
def test_the_model_equals_the_original():
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    theirs = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            image_size=SIDE, patch_size=PATCH,
        ).to_dict(),
        text_config=LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        ).to_dict(),
        image_grid_pinpoints=[[12, 24], [24, 12], [24, 24]],
        image_token_index=IMAGE_ID,
    )  # fmt: skip
    net = shaken(LlavaNextForConditionalGeneration(theirs))
    cfg = config_from_hf(theirs.to_dict(), edit_layer=1)
    tiles = AnyresConfig(grids=((1, 2), (2, 1), (2, 2)))
    assert cfg.tiles == tiles and tiles.tiles_n == 5
    backbone, weights = Backbone(cfg), checkpoint.convert_weights(cfg, numpy_state(net))
    sizes, rng = [(10, 25), (30, 11), (40, 40)], np.random.default_rng(1)
    places = [token_rows(size, tiles.grids, SIDE, PATCH, 5) for size in sizes]
    lengths = [1 + len(place) + 4 for place in places]
    t = max(lengths)
    ids, role = rng.integers(3, 49, (3, t)), np.zeros((3, t), np.int8)
    place, image = np.zeros((3, t), np.int32), np.zeros((3, 5, SIDE, SIDE, 3), np.float32)
    for b, (size, where) in enumerate(zip(sizes, places, strict=True)):
        rows, columns = best_grid(size, tiles.grids, SIDE)
        image[b, : 1 + rows * columns] = rng.normal(size=(1 + rows * columns, SIDE, SIDE, 3))
        role[b, : lengths[b]] = [Role.PRE] + [Role.VISION] * len(where) + [Role.PROMPT] * 4
        place[b, role[b] == Role.VISION] = where
    batch = Batch(jnp.asarray(ids, jnp.int32), jnp.asarray(role), image, place=jnp.asarray(place))
    ids = np.where(role == Role.VISION, IMAGE_ID, ids)
    out = net(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor((role != Role.PAD).astype(np.int64)),
        pixel_values=torch.tensor(image.transpose(0, 1, 4, 2, 3).copy()),
        image_sizes=torch.tensor(sizes),
        output_hidden_states=True,
    )
    compare_model(backbone, weights, batch, out.hidden_states[2], out.logits)
    assert "newline" in jax.eval_shape(backbone.init, jax.random.key(0))
