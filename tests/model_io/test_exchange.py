"""Published checkpoints in, released editors in and out."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from liveedit_jax import cli, presets
from liveedit_jax.backbone_config import (
    BackboneConfig,
    ClipConfig,
    LlamaConfig,
    RematPolicy,
    ResizeMode,
)
from liveedit_jax.backbones import Backbone
from liveedit_jax.config import EditorConfig, Preset
from liveedit_jax.editor.convert import to_released
from liveedit_jax.editor.liveedit import init_params
from liveedit_jax.model_io import exchange
from liveedit_jax.model_io.model import load_model
from liveedit_jax.model_io.weights import load_weights, save_weights

CFG = BackboneConfig(
    vision=ClipConfig(image_size=12, patch_size=4, width=24, layers_n=3, heads_n=2, mlp_width=32),
    decoder=LlamaConfig(
        vocab_n=300, width=32, layers_n=4, heads_n=4, kv_heads_n=2, head_width=8, mlp_width=48
    ),
    edit_layer=1,
    fit=ResizeMode.CROP,
)
EDITOR = EditorConfig(module_width=16, heads_n=2, rank=2, queries_n=2)
NAME = "llava-1.5-7b"  # its table; shapes are those of CFG


@pytest.fixture
def small(monkeypatch):
    """The preset NAME with small shapes."""
    chosen = presets.PRESETS[NAME]
    made = Preset(dataset=chosen.dataset, backbone=CFG, editor=EDITOR)
    monkeypatch.setitem(presets.PRESETS, NAME, made)
    monkeypatch.setitem(presets.BACKBONES, NAME, CFG)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as Hugging Face writes it, in two shards, with a tokenizer."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    from liveedit_jax.data.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("published")
    net = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
                image_size=12, patch_size=4,
            ).to_dict(),
            text_config=LlamaConfig(
                vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
                num_attention_heads=4, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5,
            ).to_dict(),
            image_token_index=299, vision_feature_layer=-2,
        )
    )  # fmt: skip
    net.save_pretrained(folder, max_shard_size="60KB")
    words = train_tokenizer(["what is this? a red fox"] * 4, 290)
    PreTrainedTokenizerFast(tokenizer_object=words.inner).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder, net


def run(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_published_folder_becomes_a_model(published, small, tmp_path, dtype, capsys):
    folder, net = published
    assert (
        run("convert", "--model", NAME, "--from", folder, "--to", tmp_path, "--dtype", dtype) == 0
    )
    assert len(capsys.readouterr().out.strip()) == 64  # the sha256
    weights, recipe = load_weights(tmp_path / "backbone")
    assert recipe["config"] == NAME and weights["embed"].dtype == dtype
    embed = net.state_dict()["model.language_model.embed_tokens.weight"].numpy()
    np.testing.assert_array_equal(
        np.asarray(weights["embed"]), embed.astype(weights["embed"].dtype)
    )
    editor = init_params(jax.random.key(0), EDITOR, CFG.width, CFG.vision_n)
    np.savez(tmp_path / "released.npz", **to_released(editor))
    assert run("import-editor", tmp_path / "released.npz", "--model", tmp_path) == 0
    model = load_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, model.editor, editor)
    assert model.tokenizer.decode(model.tokenizer.encode("a red fox")) == "a red fox"


@pytest.mark.parity
def test_a_published_folder_needs_no_preset(published, tmp_path, capsys):
    folder, net = published
    assert run("convert", "--from", folder, "--to", tmp_path, "--dtype", "float32") == 0
    capsys.readouterr()
    model = load_model(tmp_path, need_editor=False)
    want = replace(CFG, edit_layer=2, bos=False, keep=RematPolicy.INPUTS)  # layer 2 of 4
    assert model.config.backbone == want and model.config_name == "llava"
    embed = net.state_dict()["model.language_model.embed_tokens.weight"].numpy()
    np.testing.assert_array_equal(model.backbone["embed"], embed)
    file = tmp_path / "backbone" / "recipe.json"
    recipe = json.loads(file.read_text())
    recipe["published"]["config.json"]["text_config"]["model_type"] = "mistral"
    file.write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="recipe in .* text_config.model_type is mistral"):
        load_model(tmp_path, need_editor=False)


@pytest.mark.parity
def test_damage_and_the_wrong_model_are_named(published, small, tmp_path, capsys):
    folder, _ = published

    def refused(model, source, says):
        assert run("convert", "--model", model, "--from", source, "--to", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()

    refused("minigpt-4-vicuna-7b", folder, "eva_vit_g.pth")
    refused("blip2-opt-2.7b", folder, "model_type is llava, not blip-2")
    refused("no-such", folder, "give --model one of llava-1.5-7b")
    refused(NAME, tmp_path / "none", "no folder")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    shard = sorted(broken.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    refused(NAME, broken, "truncated")


@pytest.fixture
def edited(small, tmp_path):
    """A model folder with a random backbone and a random editor."""
    weights = Backbone(CFG).init(jax.random.key(0))
    sha256 = save_weights(tmp_path / "m" / "backbone", weights, {"config": NAME})
    editor = init_params(jax.random.key(1), EDITOR, CFG.width, CFG.vision_n)
    recipe = {"config": NAME, "editor": EDITOR.__dict__, "backbone_sha256": sha256}
    save_weights(tmp_path / "m" / "editor", editor, recipe, np.float32)
    return tmp_path / "m", editor


@pytest.mark.parity
def test_an_editor_makes_the_round_trip_exactly(edited, tmp_path):
    import torch

    folder, editor = edited
    assert run("export-editor", tmp_path / "out", "--model", folder) == 0
    stored = torch.load(tmp_path / "out", weights_only=True)
    assert set(stored["train_modules"]) == set(exchange.MODULES)
    save_weights(folder / "editor", jax.tree.map(np.zeros_like, editor), {})
    assert run("import-editor", tmp_path / "out", "--model", folder) == 0
    found, recipe = load_weights(folder / "editor")
    jax.tree.map(np.testing.assert_array_equal, found, editor)
    assert recipe["editor"]["module_width"] == 16


def test_editors_of_other_shapes_are_refused(edited, tmp_path, capsys):
    folder, editor = edited
    other = init_params(jax.random.key(1), replace(EDITOR, rank=3), CFG.width, CFG.vision_n)
    np.savez(tmp_path / "other.npz", **to_released(other))
    before = json.loads((folder / "editor" / "recipe.json").read_text())
    assert run("import-editor", tmp_path / "other.npz", "--model", folder) == 2
    assert "down/query" in capsys.readouterr().err
    (tmp_path / "text").write_text("not weights")
    assert run("import-editor", tmp_path / "text", "--model", folder) == 2
    assert run("import-editor", tmp_path / "none", "--model", folder) == 2
    assert json.loads((folder / "editor" / "recipe.json").read_text()) == before
