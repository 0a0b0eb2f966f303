"""Checkpoints whose shapes fit and whose config says another model: refused by the field's name."""

import importlib.util
import json
from dataclasses import replace

import pytest

from liveedit_jax.backbone_presets import BACKBONES
from liveedit_jax.backbones.published_config import check_language, check_published
from liveedit_jax.backbones.registry import read_architecture
from liveedit_jax.data.tokenizer import train_tokenizer
from liveedit_jax.model_io.exchange import read_tokenizer

# as on the hub: what equals the class's defaults is left out
LLAMA = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
         "vocab_size": 32064}  # fmt: skip
CLIP = {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "patch_size": 14,
        "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24,
        "projection_dim": 768, "vocab_size": 32000}  # fmt: skip
LLAVA = {"model_type": "llava", "image_token_index": 32000, "projector_hidden_act": "gelu",
         "text_config": LLAMA, "vision_config": CLIP, "vision_feature_layer": -2,
         "vision_feature_select_strategy": "default", "tie_word_embeddings": False}  # fmt: skip
NEXT = LLAVA | {"model_type": "llava_next", "use_image_newline_parameter": True}
OPT = {"model_type": "opt", "vocab_size": 50304, "hidden_size": 2560, "ffn_dim": 10240,
       "num_hidden_layers": 32, "num_attention_heads": 32, "word_embed_proj_dim": 2560,
       "eos_token_id": 50118}  # fmt: skip
BLIP2 = {"model_type": "blip-2", "text_config": OPT, "num_query_tokens": 32,
         "vision_config": {"model_type": "blip_2_vision_model"},
         "qformer_config": {"model_type": "blip_2_qformer"}}  # fmt: skip
VICUNA = {"model_type": "llama", "hidden_act": "silu", "hidden_size": 4096, "vocab_size": 32000,
          "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
          "rms_norm_eps": 1e-06, "tie_word_embeddings": False}  # fmt: skip
RIGHT = {"llava-1.5-7b": LLAVA, "llava-next-7b": NEXT, "blip2-opt-2.7b": BLIP2,
         "minigpt-4-vicuna-7b": VICUNA}  # fmt: skip


def check(name, config, folder):
    (folder / "config.json").write_text(json.dumps(config))
    cfg = BACKBONES[name]
    (check_language if name.startswith("minigpt") else check_published)(cfg, name, folder)


@pytest.mark.parametrize("name", RIGHT)
def test_the_published_config_is_taken(name, tmp_path):
    check(name, RIGHT[name], tmp_path)


def test_a_config_without_its_tower_is_read_as_llava_reads_it(tmp_path):
    check("llava-1.5-7b", {k: v for k, v in LLAVA.items() if k != "vision_config"}, tmp_path)
    with pytest.raises(ValueError, match="vision_config.image_size is 224, not 336"):
        check("llava-1.5-7b", LLAVA | {"vision_config": {}}, tmp_path)


@pytest.mark.parametrize(("name", "config"), [("llava-1.5-7b", LLAVA), ("llava-next-7b", NEXT)])
def test_the_published_config_says_all_that_the_preset_does(name, config):
    found = read_architecture({"config.json": config})
    assert replace(found, chat=BACKBONES[name].chat) == BACKBONES[name]


UNREADABLE = {
    "vision_feature_layer is \\[-2, -5\\]": LLAVA | {"vision_feature_layer": [-2, -5]},
    "vision_feature_select_strategy is full": LLAVA | {"vision_feature_select_strategy": "full"},
    "image_grid_pinpoints is \\[\\[336": NEXT | {"image_grid_pinpoints": [[336, 100]]},
    "text_config.model_type is mistral": LLAVA | {"text_config": LLAMA | {"model_type": "mistral"}},
    "text_config.hidden_size is '?x": LLAVA | {"text_config": LLAMA | {"hidden_size": "x"}},
    "model_type llava_video": LLAVA | {"model_type": "llava_video"},
}


@pytest.mark.parametrize("named", UNREADABLE)
def test_a_published_config_that_no_reader_takes_is_named(named):
    with pytest.raises(ValueError, match=named):
        read_architecture({"config.json": UNREADABLE[named]})


def rope(**settings):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4} | settings}


TEXT = {
    "rms_norm_eps": {"rms_norm_eps": 1e-2},
    "rope_theta": {"rope_theta": 1e6},
    "hidden_act": {"hidden_act": "gelu"},
    "num_attention_heads": {"num_attention_heads": 16},
    "num_key_value_heads": {"num_key_value_heads": 8},
    "head_dim": {"head_dim": 64},
    "hidden_size": {"hidden_size": 5120},
    "num_hidden_layers": {"num_hidden_layers": 40},
    "intermediate_size": {"intermediate_size": 13824},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "tie_word_embeddings": {"tie_word_embeddings": True},
    "model_type": {"model_type": "mistral"},
    "quantization_config": {"quantization_config": {"bits": 4}},
}
ROPES = {
    "rope_theta is 1000000.0": rope(rope_theta=1e6),
    "rope_type is linear": rope(rope_type="linear", factor=4.0),
    "rope_type is dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "rope_type is llama3": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    "rope_type is {'full": {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    "rope_type is linear,": {"rope_scaling": "linear"},
    "partial_rotary_factor is 0.5": rope(partial_rotary_factor=0.5),
}
VISION = {
    "hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 32,
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 8, "num_channels": 1,
    "intermediate_size": 3072, "model_type": "siglip_vision_model",
}  # fmt: skip
TOP = {
    "model_type": "vipllava", "vision_feature_layer": -1, "projector_hidden_act": "relu",
    "vision_feature_select_strategy": "full", "multimodal_projector_bias": False,
    "quantization_config": {"bits": 8}, "vision_config": [], "text_config": "llama",
}  # fmt: skip


@pytest.mark.parametrize("field", TEXT)
@pytest.mark.parametrize("name", ["llava-1.5-7b", "minigpt-4-vicuna-7b"])
def test_a_field_of_the_decoder_is_named(name, field, tmp_path):
    right = RIGHT[name]
    part = {"text_config": LLAMA | TEXT[field]} if "text_config" in right else TEXT[field]
    with pytest.raises(ValueError, match=rf"is of another model than {name}: .*\b{field} is "):
        check(name, right | part, tmp_path)


@pytest.mark.parametrize("says", ROPES)
def test_any_other_rope_is_named(says, tmp_path):
    with pytest.raises(ValueError, match=says.rstrip(",")):
        check("llava-1.5-7b", LLAVA | {"text_config": LLAMA | ROPES[says]}, tmp_path)


@pytest.mark.parametrize("field", VISION)
def test_a_field_of_the_tower_is_named(field, tmp_path):
    with pytest.raises(ValueError, match=rf"vision_config.{field} is "):
        config = LLAVA | {"vision_config": CLIP | {field: VISION[field]}}
        check("llava-1.5-7b", config, tmp_path)


@pytest.mark.parametrize("field", TOP)
def test_a_field_of_the_whole_is_named(field, tmp_path):
    with pytest.raises(ValueError, match=rf"\b{field} is "):
        check("llava-1.5-7b", LLAVA | {field: TOP[field]}, tmp_path)


@pytest.mark.parametrize(
    "part, field, value",
    [
        ("text_config", "activation_function", "gelu"), ("text_config", "enable_bias", False),
        ("text_config", "do_layer_norm_before", False),
        ("text_config", "max_position_embeddings", 1024),
        ("text_config", "num_attention_heads", 16), ("text_config", "model_type", "t5"),
        ("vision_config", "layer_norm_eps", 1e-5), ("vision_config", "hidden_act", "quick_gelu"),
        ("vision_config", "qkv_bias", False), ("qformer_config", "layer_norm_eps", 1e-5),
        ("qformer_config", "cross_attention_frequency", 1),
        ("qformer_config", "hidden_act", "relu"),
        ("qformer_config", "position_embedding_type", "relative_key"),
    ],
)  # fmt: skip
def test_a_field_of_blip2_is_named(part, field, value, tmp_path):
    with pytest.raises(ValueError, match=rf"{part}.{field} is "):
        check("blip2-opt-2.7b", BLIP2 | {part: BLIP2[part] | {field: value}}, tmp_path)


def test_other_grids_are_named(tmp_path):
    with pytest.raises(ValueError, match="image_grid_pinpoints is "):
        check("llava-next-7b", NEXT | {"image_grid_pinpoints": [[336, 672]]}, tmp_path)


PROCESSORS = {
    "image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1], "resample": 2, "do_normalize": False,
    "rescale_factor": 1.0, "crop_size": {"height": 224, "width": 224}, "size": 224,
    "do_center_crop": False,
}  # fmt: skip


@pytest.mark.parametrize("field", PROCESSORS)
def test_a_field_of_the_processor_is_named(field, tmp_path):
    right = {"do_center_crop": True, "crop_size": {"height": 336, "width": 336}, "resample": 3,
             "image_mean": [0.48145466, 0.4578275, 0.40821073]}  # fmt: skip
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(right))
    check("llava-1.5-7b", LLAVA, tmp_path)
    file.write_text(json.dumps(right | {field: PROCESSORS[field]}))
    with pytest.raises(ValueError, match=rf"preprocessor_config.json is .*: {field} is "):
        check("llava-1.5-7b", LLAVA, tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 100_000, '{"a": NaN}', "\x00"])
def test_a_config_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json"):
        check_published(BACKBONES["llava-1.5-7b"], "llava-1.5-7b", tmp_path)


def test_a_checkpoint_without_a_config_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="lacks config.json"):
        check_published(BACKBONES["llava-1.5-7b"], "llava-1.5-7b", tmp_path)


def save_words(folder, words_n):
    from transformers import PreTrainedTokenizerFast

    words = train_tokenizer([f"what is this? a red fox and a {i}" for i in range(400)], words_n)
    PreTrainedTokenizerFast(tokenizer_object=words.inner).save_pretrained(folder)


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(tmp_path):
    cfg = BACKBONES["tiny"].__class__(decoder=BACKBONES["tiny"].decoder.__class__(vocab_n=300))
    save_words(tmp_path, 290)
    assert read_tokenizer(cfg, tmp_path).vocab_n == 290
    save_words(tmp_path, 340)
    with pytest.raises(ValueError, match="the id 300, and the model's embedding has 300 rows"):
        read_tokenizer(cfg, tmp_path)


def test_a_missing_sentencepiece_is_named(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "sentencepiece" else real(n, *a)
    )
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    with pytest.raises(ImportError, match="pip install sentencepiece"):
        read_tokenizer(BACKBONES["minigpt-4-vicuna-7b"], tmp_path)


def test_no_code_of_a_checkpoint_runs(tmp_path):
    named = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    config = {"tokenizer_class": "Evil", "auto_map": named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(ValueError, match="no readable tokenizer"):
        read_tokenizer(BACKBONES["llava-1.5-7b"], tmp_path)
    assert not (tmp_path / "ran").exists()
