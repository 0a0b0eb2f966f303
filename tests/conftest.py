"""A model folder with random weights of the `tiny` preset: real shapes, no training."""

from __future__ import annotations

from dataclasses import asdict, replace

import jax
import pytest

from liveedit_jax.backbones import Backbone
from liveedit_jax.data.pretraining import mojiedit_tokenizer
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.presets import preset
from liveedit_jax.training.weights import save_weights


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """The folder; its backbone and editor belong together."""
    folder, chosen = tmp_path_factory.mktemp("model"), preset("tiny")
    cfg = replace(chosen.editor, rank=8)
    backbone = Backbone(chosen.backbone)
    weights = jax.jit(backbone.init)(jax.random.key(0))
    sha256 = save_weights(folder / "backbone", weights, {"config": "tiny"})
    editor = init_params(jax.random.key(1), cfg, chosen.backbone.width, chosen.backbone.vision_n)
    recipe = {"config": "tiny", "editor": asdict(cfg), "backbone_sha256": sha256}
    save_weights(folder / "editor", editor, recipe)
    mojiedit_tokenizer(chosen.backbone.decoder.vocab_n).save(folder / "tokenizer.json")
    return folder
