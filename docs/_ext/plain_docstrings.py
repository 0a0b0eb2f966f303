"""Docstrings here are plain text with `code` in backticks: this makes reStructuredText of them.

Three things differ. A block that is indented more than the text before it is shown as it is
written, unless it belongs to a section like `Args:`. Outside backticks, characters that
reStructuredText would read as markup are just characters. And what a comment says about a field of
a dataclass is shown with it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re

SECTION = re.compile(r"\s*(Args|Returns|Yields|Raises|Examples?|Attributes|Note):\s*$")
CODE = re.compile(r"(`[^`]*`)")
FIELD = re.compile(r"    (\w+): [^#]*?(?:  # (.*))?$")
COMMENT = re.compile(r"    # (.*)$")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def escaped(line: str) -> str:
    """Escape markup outside backticks.

    Examples:
        >>> escaped("rows [E*M] of `a*b`, f_fe and x_")
        'rows [E\\\\*M] of `a*b`, f_fe and x\\\\_'
    """
    parts = CODE.split(line)
    for i in range(0, len(parts), 2):
        text = re.sub(r"([*|])", r"\\\1", parts[i])
        parts[i] = re.sub(r"_(?=[^A-Za-z0-9_]|$)", r"\\_", text)
    return "".join(parts)


def plain(lines: list[str]) -> list[str]:
    """Turn the lines of a docstring into reStructuredText."""
    out, i, section = [], 0, None
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            out.append("")
            i += 1
            continue
        if SECTION.match(line):
            section = line.strip().rstrip(":")
            out.append(line)
            i += 1
            continue
        if section is not None and _indent(line) == 0:
            section = None
        if section in ("Example", "Examples"):
            out.append(line)
        elif section is None and _indent(line) > 0 and (not out or not out[-1].strip()):
            out += ["::", ""]
            while i < len(lines) and (not lines[i].strip() or _indent(lines[i]) > 0):
                out.append(lines[i])
                i += 1
            out.append("")
            continue
        else:
            out.append(escaped(line))
        i += 1
    return out


def field_comments(source: str) -> dict[str, str]:
    """Read what the comments behind and above the fields of a class say.

    Examples:
        >>> field_comments("class A:\\n    # Of the editor.\\n    rank: int = 4  # R\\n    n: int")
        {'rank': 'Of the editor. R'}
    """
    found, above = {}, []
    for line in source.splitlines():
        comment, field = COMMENT.match(line), FIELD.match(line)
        if comment:
            above.append(comment[1])
            continue
        if field and (above or field[2]):
            found[field[1]] = " ".join([*above, field[2] or ""]).strip()
        above = []
    return found


def _process(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = plain(lines)
    if what == "class" and dataclasses.is_dataclass(obj):
        comments = field_comments(inspect.getsource(obj))
        told = [f"    {name}: {escaped(text)}" for name, text in comments.items()]
        lines += ["", "Attributes:", *told] if told else []


def _shorten(app, what, name, obj, options, signature, returned):
    """Write arrays as the source does."""
    texts = signature, returned
    return tuple(
        text and text.replace("~jaxlib._jax.", "").replace("~numpy.", "np.") for text in texts
    )


def setup(app) -> dict:
    """Run before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True}
