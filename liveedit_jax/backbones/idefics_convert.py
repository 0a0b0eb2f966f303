"""Conversion of Hugging Face Idefics: the table of its weights, and its own configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from liveedit_jax.backbone_config import (
    Activation,
    BackboneConfig,
    ClipConfig,
    RematPolicy,
    ResizeMode,
)
from liveedit_jax.backbones.config_fields import read_fields
from liveedit_jax.backbones.convert import Piece, Rule, norm_rules, transpose
from liveedit_jax.backbones.idefics import IdeficsConfig, ResamplerConfig
from liveedit_jax.backbones.tables import LAYER, clip_rules, llama_rules

FAKE, IMAGE = "<fake_token_around_image>", "<image>"


def _vocabulary_rules(cfg: IdeficsConfig) -> list[Rule]:
    """Put embedding and head together from the base vocabulary and the additional rows."""
    names = {"embed": (r"model\.embed_tokens\.", r"additional_embedding\.")}
    if cfg.tied_head:
        head = [Rule(r"lm_head\.(?:additional_fc\.)?weight", None)]
    else:
        head, names["head"] = [], (r"lm_head\.", r"additional_fc\.")
    rows = [("", 0, cfg.base_vocab_n), ("more", cfg.base_vocab_n, cfg.vocab_n)]
    for path, (start, more) in names.items():
        axis, turn = (0, np.asarray) if path == "embed" else (1, transpose)
        for which, first, stop in rows:
            if first < stop:
                name = start + (more if which else "") + "weight"
                head.append(Rule(name, path, turn, piece=Piece(axis, first, stop)))
    return head


def _resampler_rules(cfg: ResamplerConfig) -> list[Rule]:
    at = r"model\.perceiver_resampler\."
    table = [
        Rule(at + "latents", "projector/latents"),
        *norm_rules(at + "layer_norm", "projector/norm"),
    ]
    norms = {"latents_layer_norm": "norm1", "context_layer_norm": "norm_image"}
    if cfg.qk_norm:
        norms |= {f"{n}_layer_norm": f"{n}_norm" for n in "qk"}
    linear = {rf"0\.{n}_proj": n for n in "qkv"} | {r"0\.output_proj": "o"}
    linear |= {r"1\.fc": "fc1", r"1\.c_proj": "fc2"}
    for i in range(cfg.layers_n):
        block, ours = at + rf"blocks\.{i}\.", f"projector/layer{i}/"
        for theirs, name in norms.items():
            table += norm_rules(block + r"0\." + theirs, ours + name)
        table += norm_rules(block + r"1\.ln", ours + "norm2")
        for theirs, name in linear.items():
            table.append(Rule(block + theirs + r"\.weight", ours + name + "/kernel", transpose))
    return table


def _cross_rules(cfg: IdeficsConfig) -> list[Rule]:
    at, layers = r"model\.gated_cross_attn_" + LAYER, range(cfg.cross_n)
    kernels = {rf"cross_attn\.{n}_proj": n for n in "qkvo"}
    kernels |= {rf"mlp\.{n}_proj": n for n in ("gate", "up", "down")}
    scales = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
    if cfg.cross_qk_norm:
        scales |= {rf"cross_attn\.{n}_layer_norm": f"{n}_norm" for n in "qk"}
    gates = {"alpha_cross_attn": "attention_gate", "alpha_dense": "mlp_gate"}
    return [
        *(
            Rule(at + a + r"\.weight", f"cross/{b}/kernel", transpose, layers)
            for a, b in kernels.items()
        ),
        *(Rule(at + a + r"\.weight", f"cross/{b}/scale", layers=layers) for a, b in scales.items()),
        *(Rule(at + a, f"cross/{b}", np.ravel, layers) for a, b in gates.items()),
    ]


def rules(cfg: BackboneConfig) -> list[Rule]:
    """Build the conversion table of a config."""
    decoder, bridge, vision = cfg.decoder, cfg.bridge, cfg.vision
    assert isinstance(decoder, IdeficsConfig) and isinstance(bridge, ResamplerConfig)
    assert isinstance(vision, ClipConfig)
    table = llama_rules(cfg, r"model\.", r"lm_head\.")
    whole = [r"model\.embed_tokens\.weight", r"lm_head\.weight"]
    return [
        *(rule for rule in table if rule.pattern not in whole),
        *_vocabulary_rules(decoder),
        *clip_rules(vision, r"model\.vision_model\."),
        *_resampler_rules(bridge),
        *_cross_rules(decoder),
    ]


TEXT_FIELDS = {  # what the published class takes where they are absent
    **{"vocab_size": 32000, "additional_vocab_size": 0, "hidden_size": 4096},
    **{"intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
    **{"cross_layer_interval": 1, "qk_layer_norms": False, "alpha_type": "float"},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rope_theta": 10000.0},
    **{"vision_config": None, "perceiver_config": None, "rope_parameters": None},
    "use_resampler": False,
}
TEXT_UNUSED = (  # of training, of other code, or of longer texts than these
    *("dropout", "alpha_initializer", "alphas_initializer_range", "max_position_embeddings"),
    *("freeze_text_layers", "freeze_text_module_exceptions", "freeze_lm_head", "max_new_tokens"),
    *("freeze_vision_layers", "freeze_vision_module_exceptions", "ffn_dim", "word_embed_proj_dim"),
)
TEXT_FIXED = {"model_type": "idefics", "cross_layer_activation_function": "swiglu"}
VISION_FIELDS = {
    **{"embed_dim": 768, "image_size": 224, "intermediate_size": 5120, "patch_size": 14},
    **{"num_hidden_layers": 32, "num_attention_heads": 16, "hidden_act": "gelu"},
    "layer_norm_eps": 1e-5,
}
RESAMPLER_FIELDS = {
    **{"resampler_n_latents": 64, "resampler_depth": 6, "resampler_n_heads": 16},
    **{"resampler_head_dim": 96, "qk_layer_norms_perceiver": False},
}
PROCESSOR_FIELDS = {"image_size": None, "size": None, "image_mean": None, "image_std": None}
PROCESSOR_FIXED = {
    **{f"do_{step}": True for step in ("resize", "rescale", "normalize", "convert_rgb")},
    **{"resample": 3, "rescale_factor": 1 / 255, "image_num_channels": 3},
    "do_center_crop": False,
    "do_pad": False,
}
PROCESSOR_UNUSED = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "return_tensors"),
    *("data_format", "input_data_format", "device", "disable_grouping", "default_to_square"),
)


def same_depth(layers_n: int) -> int:
    """Return the edit layer of the same relative depth as the paper's 21 of 32.

    Examples:
        >>> same_depth(32), same_depth(40)
        (21, 26)
    """
    return layers_n * 21 // 32


def _activation(name: str, part: str) -> Activation:
    try:
        return Activation(name)
    except ValueError:
        raise ValueError(f"{part}hidden_act is {name!r}, which is not known") from None


def _divides(smaller: int, larger: int, what: str) -> None:
    if larger % smaller:
        raise ValueError(f"{what}: {larger} is no multiple of {smaller}")


def _read_vision(config: Any) -> ClipConfig:
    part = "vision_config."
    fixed = {"model_type": "idefics_vision", "num_channels": 3}
    unused = ("attention_dropout", "vision_model_name")
    found = read_fields(config, part, VISION_FIELDS, fixed, unused)
    _divides(found["patch_size"], found["image_size"], part + "image_size")
    _divides(found["num_attention_heads"], found["embed_dim"], part + "embed_dim")
    return ClipConfig(
        image_size=found["image_size"],
        patch_size=found["patch_size"],
        width=found["embed_dim"],
        layers_n=found["num_hidden_layers"],
        heads_n=found["num_attention_heads"],
        mlp_width=found["intermediate_size"],
        norm_eps=found["layer_norm_eps"],
        feature_layer=-1,
        keep_cls=True,
        activation=_activation(found["hidden_act"], part),
    )


def _read_resampler(config: Any, width: int) -> ResamplerConfig:
    fixed = {"model_type": "idefics_perciever"}  # as it is spelt
    found = read_fields(config, "perceiver_config.", RESAMPLER_FIELDS, fixed, ("use_resampler",))
    return ResamplerConfig(
        latents_n=found["resampler_n_latents"],
        layers_n=found["resampler_depth"],
        heads_n=found["resampler_n_heads"],
        head_width=found["resampler_head_dim"],
        mlp_width=4 * width,
        qk_norm=found["qk_layer_norms_perceiver"],
    )


def config_from_hf(config: Mapping, edit_layer: int | None = None) -> BackboneConfig:
    """Convert the config.json of an Idefics checkpoint.

    Args:
        config: the file's object.
        edit_layer: None: the one of the paper's relative depth.

    Raises:
        ValueError: another model, a field that is unknown, or a value that is not supported; the
            message names the field.
    """
    fixed = TEXT_FIXED | {"use_resampler": True} if "use_resampler" in config else TEXT_FIXED
    found = read_fields(config, "", TEXT_FIELDS, fixed, TEXT_UNUSED)
    if config.get("model_type") != "idefics":
        raise ValueError("model_type is absent, not 'idefics'")
    if not found["use_resampler"]:
        raise ValueError("use_resampler is False: only Idefics with a resampler is supported")
    rope = read_fields(
        found["rope_parameters"],
        "rope_parameters.",
        {"rope_theta": found["rope_theta"]},
        {"rope_type": "default"},
    )
    vision = _read_vision(found["vision_config"])
    width, heads_n, layers_n = (
        found[name] for name in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    _divides(heads_n, width, "hidden_size")
    _divides(found["cross_layer_interval"], layers_n, "num_hidden_layers")
    if vision.width > width:
        raise ValueError(f"vision_config.embed_dim is {vision.width}, above hidden_size, {width}")
    if found["alpha_type"] not in ("float", "vector"):
        raise ValueError(f"alpha_type is {found['alpha_type']!r}, not 'float' or 'vector'")
    return BackboneConfig(
        vision=vision,
        bridge=_read_resampler(found["perceiver_config"], vision.width),
        decoder=IdeficsConfig(
            base_vocab_n=found["vocab_size"],
            vocab_n=found["vocab_size"] + found["additional_vocab_size"],
            width=width,
            layers_n=layers_n,
            heads_n=heads_n,
            kv_heads_n=heads_n,
            head_width=width // heads_n,
            mlp_width=found["intermediate_size"],
            norm_eps=found["rms_norm_eps"],
            rope_base=rope["rope_theta"],
            tied_head=found["tie_word_embeddings"],
            activation=_activation(found["hidden_act"], ""),
            cross_every=found["cross_layer_interval"],
            latent_width=vision.width,
            cross_qk_norm=found["qk_layer_norms"],
            gate_width=1 if found["alpha_type"] == "float" else width,
        ),
        edit_layer=same_depth(layers_n) if edit_layer is None else edit_layer,
        bos_id=found["bos_token_id"],
        eos_id=found["eos_token_id"],
        pad_id=found["pad_token_id"],
        after_image=IMAGE + FAKE,
        fit=ResizeMode.SQUASH,
        over_white=True,
        keep=RematPolicy.INPUTS,
    )


def with_processor(cfg: BackboneConfig, config: Mapping) -> BackboneConfig:
    """Apply a checkpoint's preprocessor_config.json to its config.

    Raises:
        ValueError: an unknown field, or one that prepares pictures otherwise; it is named.
    """
    found = read_fields(config, "", PROCESSOR_FIELDS, PROCESSOR_FIXED, PROCESSOR_UNUSED)
    side = cfg.vision.image_size
    for name in ("image_size", "size"):
        given = found[name]
        sides = list(given.values()) if isinstance(given, Mapping) else [given]
        if given is not None and any(one != side for one in sides):
            raise ValueError(f"{name} is {given}, not the tower's {side}")
    for name in ("image_mean", "image_std"):
        given = found[name]
        if given is None:
            continue
        if not _are_three_numbers(given):
            raise ValueError(f"{name} is {given!r}, not three numbers")
        changed: dict[str, Any] = {name: tuple(given)}
        cfg = replace(cfg, vision=replace(cfg.vision, **changed))
    return cfg


def _are_three_numbers(given: Any) -> bool:
    is_list = isinstance(given, Sequence) and len(given) == 3
    return is_list and all(isinstance(n, int | float) and not isinstance(n, bool) for n in given)
