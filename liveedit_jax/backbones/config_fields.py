"""The fields of a checkpoint's config.json, each of which is read, checked, or known not to matter.

A field that is none of these may change the result, so it is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

EVERYWHERE = (  # fields of any part of a config that change no result
    *("architectures", "_name_or_path", "transformers_version", "torch_dtype", "dtype"),
    *("use_cache", "initializer_range", "initializer_factor", "_attn_implementation_autoset"),
)
SHOWN_N = 60  # characters of a value in an error


def read_fields(
    config: Any,
    part: str,
    defaults: Mapping[str, Any],
    fixed: Mapping[str, Any],
    unused: Collection[str] = (),
) -> dict[str, Any]:
    """Read the fields of one part of a config.json.

    Args:
        config: the part; None: it is absent.
        part: what an error puts in front of a field's name.
        defaults: the fields that are read, with what they are where they are absent or null. A
            value has the type of its default, and where that is positive it is positive, too.
        fixed: the fields that must have these values, if they are there.
        unused: fields that do not change the result, beside EVERYWHERE.

    Raises:
        ValueError: no JSON object, an unknown field, or a value that a field cannot have.
    """
    config = {} if config is None else config
    if not isinstance(config, Mapping):
        raise ValueError(f"{part.rstrip('.') or 'the config'} is no JSON object")
    known = {*defaults, *fixed, *unused, *EVERYWHERE}
    for name in sorted(set(config) - known):
        raise ValueError(f"{part}{name} is a field that is not known and may change the result")
    given = {name: value for name, value in config.items() if value is not None}
    for name, wanted in fixed.items():
        if not _same(given.get(name, wanted), wanted):
            raise ValueError(f"{part}{name} is {_show(given[name])}, not {_show(wanted)}")
    found = {name: given.get(name, default) for name, default in defaults.items()}
    for name, value in found.items():
        default = defaults[name]
        if default is None:
            continue
        kind = (int, float) if isinstance(default, float) else type(default)
        if isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, kind):
            raise ValueError(f"{part}{name} is {_show(value)}, not of the type of {default!r}")
        if not isinstance(default, bool | str | Mapping) and default > 0 and value <= 0:
            raise ValueError(f"{part}{name} is {_show(value)}: above 0")
    return found


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return type(found) is type(wanted) and found == wanted


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_N else text[:SHOWN_N] + "..."
