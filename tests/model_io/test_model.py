"""Shipped weights come back; a damaged or mismatched checkpoint is refused by name."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.backbone import split_at
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.model_io.model import load_model
from liveedit_jax.model_io.weights import load_weights, save_weights
from liveedit_jax.presets import preset
from liveedit_jax.types import Role


def test_weights_come_back_rounded_to_half(tmp_path):
    weights = {"a": jnp.linspace(0, 1, 7), "b": {"c": jnp.ones((2, 3))}}
    sha256 = save_weights(tmp_path / "w", weights, {"seed": 3})
    again, recipe = load_weights(tmp_path / "w")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-3), weights, again)
    assert again["a"].dtype == jnp.float32 and recipe == {"seed": 3, "sha256": sha256}
    assert save_weights(tmp_path / "w", again, {"seed": 3}) == sha256  # rounding happens once


def test_weights_saved_on_another_machines_devices_open_here(tmp_path):
    script = """
import jax, jax.numpy as jnp, sys
from liveedit_jax.model_io.weights import save_weights
there = jax.devices()[3]
save_weights(sys.argv[1], {"a": jax.device_put(jnp.arange(5.0), there)}, {})
"""
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, str(tmp_path / "w")]
    subprocess.run(command, env=os.environ | devices, check=True)
    assert jax.local_device_count() == 1
    assert load_weights(tmp_path / "w")[0]["a"].tolist() == [0, 1, 2, 3, 4]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    save_weights(tmp_path / "w", {"a": jnp.ones(2)}, {})
    with pytest.raises(ValueError, match="a'. is not finite"):
        save_weights(tmp_path / "w", {"a": jnp.asarray([1e9, 1.0])}, {})
    assert load_weights(tmp_path / "w")[0]["a"].tolist() == [1, 1]  # what was there stays


def test_a_whole_model_loads(model_folder):
    model = load_model(model_folder)
    tiny = preset("tiny")
    assert model.config == replace(tiny, editor=replace(tiny.editor, rank=8))  # as it was trained
    assert model.tokenizer.vocab_n == 1024
    with pytest.raises(ValueError, match=r"other shapes than the config.*\(8, 192\)"):
        load_model(model_folder, tiny)
    with pytest.raises(FileNotFoundError, match="not a preset"):
        load_model("no-such-model")
    with pytest.raises(FileNotFoundError, match="liveedit convert --model llava-1.5-7b --from"):
        load_model("llava-1.5-7b")


def test_a_model_without_an_editor_opens_where_none_is_needed(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("editor"))
    with pytest.raises(FileNotFoundError, match="no editor in .* import-editor FILE --model"):
        load_model(folder)
    model = load_model(folder, need_editor=False)
    assert model.config == preset("tiny") and model.config_name == "tiny"
    assert model.editor is None and model.editor_sha256 is None


def test_a_model_is_divided_where_its_editor_was_trained(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    weights, recipe = load_weights(folder / "editor")
    save_weights(folder / "editor", weights, recipe | {"edit_layer": 1})
    model, before = load_model(folder), load_model(model_folder)
    assert model.config.backbone.edit_layer == 1 and before.config.backbone.edit_layer == 2
    with pytest.raises(ValueError, match="trained at edit layer 1, not 2"):
        load_model(folder, replace(model.config, backbone=before.config.backbone))

    batch = without_pixels(jnp.arange(1, 7)[None], jnp.full((1, 6), Role.PROMPT, jnp.int8))
    logits = []
    for one in (model, before):
        backbone = Backbone(one.config.backbone)
        hidden = backbone.lower_from_features(one.backbone, batch, None)
        logits.append(backbone.upper(one.backbone, hidden, batch))
    assert len(model.backbone["lower"]["norm1"]["scale"]) == 2
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_layers_are_divided_wherever_there_is_one(model_folder):
    weights = load_model(model_folder).backbone
    layers_n = preset("tiny").backbone.decoder.layers_n
    for outside in (-1, layers_n):
        with pytest.raises(ValueError, match=f"edit_layer={outside}: from 0 to {layers_n - 1}"):
            split_at(weights, outside)
    last = split_at(weights, layers_n - 1)
    assert last["upper"]["norm1"]["scale"].shape[0] == 0
    there_and_back = split_at(split_at(last, 0), preset("tiny").backbone.edit_layer)
    jax.tree.map(np.testing.assert_array_equal, there_and_back, weights)


DAMAGES = ("truncated", "altered", "recipe", "missing", "other editor", "other backbone")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused(model_folder, tmp_path, damage):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    recipe = folder / "editor" / "recipe.json"
    content = json.loads(recipe.read_text())
    if damage == "truncated":
        for file in (folder / "backbone" / "weights").rglob("*"):
            if file.is_file() and file.stat().st_size > 10_000:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        says = "truncated or corrupt"
    elif damage == "altered":
        recipe.write_text(json.dumps(content | {"sha256": "0" * 64}))
        says = "does not match the sha256"
    elif damage == "recipe":
        recipe.write_text("{")
        says = "truncated or corrupt"
    elif damage == "missing":
        recipe.unlink()
        says = "recipe.json is missing"
    elif damage == "other editor":
        recipe.write_text(json.dumps(content | {"editor": {"ranks": 4}}))
        says = "does not fit this version .*ranks"
    else:
        recipe.write_text(json.dumps(content | {"backbone_sha256": "1" * 64}))
        says = "trained for another backbone"
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        load_model(folder)


def test_unknown_presets_are_named():
    with pytest.raises(KeyError, match="unknown config 'huge'; known: .*tiny"):
        preset("huge")
    with pytest.raises(KeyError, match="unknown editor"):
        preset("tiny", editor="none")
