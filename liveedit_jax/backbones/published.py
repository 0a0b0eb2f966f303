"""The fields of published configs: what one is where it is absent, and comparisons with ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from liveedit_jax.backbone_config import LlamaConfig

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SHOWN_N = 60  # characters of a value in an error


class Field(NamedTuple):
    """A field of a config: what it is where it is absent, and what the preset needs it to be."""

    name: str
    absent: Any
    wanted: Any


def llama_fields(cfg: LlamaConfig, text: Mapping) -> list[Field]:
    """List the fields of a Llama decoder whose config is `text`; `read_rope` makes those of RoPE.

    The number of key heads and the width of a head follow from others where they are absent.
    """
    heads_n, width = text.get("num_attention_heads", 32), text.get("hidden_size", 4096)
    whole = isinstance(heads_n, int) and isinstance(width, int) and heads_n > 0
    return [
        Field("model_type", "llama", "llama"),
        Field("vocab_size", 32000, cfg.vocab_n),
        Field("hidden_size", 4096, cfg.width),
        Field("num_hidden_layers", 32, cfg.layers_n),
        Field("num_attention_heads", 32, cfg.heads_n),
        Field("num_key_value_heads", heads_n, cfg.kv_heads_n),
        Field("head_dim", width // heads_n if whole else None, cfg.head_width),
        Field("intermediate_size", 11008, cfg.mlp_width),
        Field("rms_norm_eps", 1e-6, cfg.norm_eps),
        Field("rope_theta", 10000.0, cfg.rope_base),
        Field("rope_type", "default", "default"),
        Field("partial_rotary_factor", 1.0, 1.0),
        Field("hidden_act", "silu", "silu"),
        Field("attention_bias", False, False),
        Field("mlp_bias", False, False),
        Field("tie_word_embeddings", False, cfg.tied_head),
        Field("quantization_config", None, None),
    ]


def read_rope(text: Mapping) -> dict:
    """Return a Llama config with its rotary settings, which have had several names, at the top."""
    found = dict(text)
    for name in ("rope_scaling", "rope_parameters"):
        settings = text.get(name)
        if settings is None:
            continue
        if not isinstance(settings, Mapping) or any(
            isinstance(v, Mapping) for v in settings.values()
        ):
            found["rope_type"] = settings
            continue
        found["rope_type"] = settings.get("rope_type", settings.get("type"))
        for field in ("rope_theta", "partial_rotary_factor"):
            if field in settings:
                found[field] = settings[field]
    return found


def compare(config: Any, fields: Sequence[Field], part: str = "") -> Iterator[str]:
    """Name the fields of one part of a config that are not what they have to be."""
    if not isinstance(config, Mapping):
        yield f"{part.rstrip('.') or 'it'} is no JSON object"
        return
    for field in fields:
        found = config.get(field.name)
        found = field.absent if found is None else found
        if not _same(found, field.wanted):
            yield f"{part}{field.name} is {show(found)}, not {show(field.wanted)}"


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return found == wanted


def show(value: Any) -> str:
    """Write a value for an error, cut where it is long."""
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_N else text[:SHOWN_N] + "..."
