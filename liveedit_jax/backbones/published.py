"""The JSON files of published checkpoints, and the fields that families read out of them.

A family's reader takes each field that changes a result, or refuses it by its name. An absent field
is what the class that Hugging Face reads it with makes of it. Nothing in the files is executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from liveedit_jax.backbone_config import LlamaConfig
from liveedit_jax.data.json_files import read_json

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR, GENERATION = "processor_config.json", "generation_config.json"
CHAT, TOKENIZER, TOKENIZER_CONFIG = "chat_template.json", "tokenizer.json", "tokenizer_config.json"
JINJA = "chat_template.jinja"
KEPT = {TOKENIZER: ("post_processor",), TOKENIZER_CONFIG: ("chat_template",)}  # of long files
TEMPLATE_MOST = 100_000  # bytes of a chat template
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
    for name in ("rope_parameters", "rope_scaling"):  # the older name counts where both are there
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


def refuse_differences(config: Any, fields: Sequence[Field], part: str = "") -> None:
    """Refuse a part of a config whose fields are not what they have to be.

    Raises:
        ValueError: it names the first of them.
    """
    for found in compare(config, fields, part):
        raise ValueError(f"not supported: {found}")


def read_files(folder: Path) -> dict[str, Any]:
    """Read the JSON files of a checkpoint's folder that say how it runs, by name.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: a file is no JSON object.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} lacks {CONFIG}, which says how its weights run")
    found: dict[str, Any] = {}
    for name in (CONFIG, PREPROCESSOR, PROCESSOR, GENERATION, CHAT, TOKENIZER_CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            continue
        content = read_json(folder / name)
        if not isinstance(content, Mapping):
            raise ValueError(f"{folder / name} is no JSON object")
        kept = KEPT.get(name, content)
        found[name] = {key: value for key, value in content.items() if key in kept}
    if (folder / JINJA).is_file():
        template = (folder / JINJA).read_bytes()[:TEMPLATE_MOST].decode(errors="replace")
        found[CHAT] = {"chat_template": template}
    return found


def part_of(config: Mapping, name: str) -> dict[str, Any]:
    """Return a part of a config without its null fields; an absent part is empty.

    Raises:
        ValueError: it is no JSON object.
    """
    found = config.get(name)
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"{name} is {show(found)}, no JSON object")
    return {key: value for key, value in (found or {}).items() if value is not None}


def check_numbers(config: Mapping, like: Mapping[str, Any], part: str = "") -> None:
    """Check that fields which are there are positive numbers of the kind that `like` has.

    Raises:
        ValueError: it names the first that is not.
    """
    for name, other in like.items():
        found = config.get(name, other)
        kinds = (int, float) if isinstance(other, float) else (int,)
        if type(found) not in kinds or not 0 < found < 2**31:
            raise ValueError(f"{part}{name} is {show(found)}, not a number above 0")


def read_triple(config: Mapping, name: str, absent: float = 0.5) -> tuple[float, float, float]:
    """Read a number for each of a picture's channels.

    Raises:
        ValueError: there are no three.
    """
    found = config.get(name, [absent] * 3)
    if not isinstance(found, list) or [type(n) in (int, float) for n in found] != [True] * 3:
        raise ValueError(f"{name} is {show(found)}, not three numbers")
    return found[0], found[1], found[2]


LLAMA_NUMBERS = {  # of a Llama's config, with one as an example
    **{"vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32, "head_dim": 128},
    **{"num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008},
    **{"rms_norm_eps": 1e-6, "rope_theta": 1e4},
}


def read_llama(text: Mapping, part: str) -> LlamaConfig:
    """Read a Llama's config, without its null fields.

    Raises:
        ValueError: a field that changes the result has a value that is not supported; names it.
    """
    text = read_rope(text)
    check_numbers(text, LLAMA_NUMBERS, part)
    heads_n, width = text.get("num_attention_heads", 32), text.get("hidden_size", 4096)
    found = LlamaConfig(
        vocab_n=text.get("vocab_size", 32000),
        width=width,
        layers_n=text.get("num_hidden_layers", 32),
        heads_n=heads_n,
        kv_heads_n=text.get("num_key_value_heads", heads_n),
        head_width=text.get("head_dim", width // heads_n),
        mlp_width=text.get("intermediate_size", 11008),
        norm_eps=text.get("rms_norm_eps", 1e-6),
        rope_base=float(text.get("rope_theta", 10000.0)),
        tied_head=text.get("tie_word_embeddings", False),
    )
    refuse_differences(text, llama_fields(found, text), part)
    return found


def paper_layer(layers_n: int) -> int:
    """Return the edit layer at the relative depth of the paper's, 21 of 32.

    Examples:
        >>> paper_layer(32), paper_layer(40), paper_layer(30)
        (21, 26, 19)
    """
    return 21 * layers_n // 32


def special_ids(files: Mapping[str, Any], text: Mapping, bos: bool | None = None) -> dict[str, Any]:
    """Read the fields of a `BackboneConfig` about special tokens.

    The tokenizer says whether plain rows begin with BOS, generation's config what ends an answer.

    Args:
        files: of the checkpoint.
        text: the config of its decoder.
        bos: whether rows begin with BOS where there is no tokenizer.json; None: there has to be.

    Raises:
        ValueError: an id is none, rows begin with more than BOS, or nothing says with what.
    """
    places = (files.get(GENERATION, {}), files[CONFIG], text)

    def find(name: str, absent: int) -> int:
        found = next((place[name] for place in places if place.get(name) is not None), absent)
        found = found[0] if isinstance(found, list) and found else found  # of several, the first
        if type(found) is not int or not 0 <= found < 2**31:
            raise ValueError(f"{name} is {show(found)}, not a token's number")
        return found

    before, after = _added_ids(files.get(TOKENIZER, {}).get("post_processor"))
    if TOKENIZER in files:
        bos = bool(before)
    if bos is None:
        raise ValueError(f"no {TOKENIZER}, which says whether a text begins with BOS")
    if len(before) > 1 or after:
        raise ValueError(f"{TOKENIZER}: post_processor adds {before} and {after} to a text")
    return {
        "bos": bos,
        "bos_id": before[0] if before else find("bos_token_id", 1),
        "eos_id": find("eos_token_id", 2),
        "pad_id": find("pad_token_id", 0),
    }


def _added_ids(processor: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer's post-processor puts before and after a text."""
    if not isinstance(processor, Mapping):
        return [], []
    if processor.get("type") == "Sequence":
        parts = [_added_ids(part) for part in processor.get("processors", ())]
        return sum((p[0] for p in reversed(parts)), []), sum((p[1] for p in parts), [])
    if processor.get("type") != "TemplateProcessing":
        return [], []
    found: tuple[list[int], list[int]] = ([], [])
    is_after = False
    try:
        for piece in processor["single"]:
            is_after = is_after or "Sequence" in piece
            if "SpecialToken" in piece:
                found[is_after].extend(
                    processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
                )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{TOKENIZER}: post_processor is damaged ({error!r})"[:200]) from error
    return found


def template_of(files: Mapping[str, Any]) -> str:
    """Return a checkpoint's chat template; "" where it has none."""
    for name in (CHAT, PROCESSOR, TOKENIZER_CONFIG):
        found = files.get(name, {}).get("chat_template")
        if isinstance(found, str):
            return found
    return ""
