"""`liveedit shell`: the verbs line by line, with the model and the repository open."""

from __future__ import annotations

import contextlib
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from liveedit_jax.cli import verbs, wording
from liveedit_jax.cli.arguments import shell_parser

if TYPE_CHECKING:
    from liveedit_jax.session import EditingSession

PROMPT = "liveedit> "
HELP = """edit    --image FILE --prompt TEXT --target TEXT   (or --from FILE.jsonl; --no-check)
ask     --prompt TEXT [--image FILE] [--json]
list    [--json | --html FILE]
forget  ID
purge   ID
rollback N
info
help    this text; VERB --help: its flags
quit    or the end of the input"""


def run_shell(editor: EditingSession) -> int:
    """Read lines and do what they say; what is refused is said, and the shell goes on.

    Returns:
        The exit status: 2 where a line that nobody typed (of a file or a pipe) was refused.
    """
    typed, refused_n = sys.stdin.isatty(), 0
    for line in _typed_lines() if typed else sys.stdin:
        try:
            words = shlex.split(line, comments=True)
            if words[:1] == ["liveedit"]:
                del words[0]
            if words[:1] in (["quit"], ["exit"]):
                break
            if words[:1] == ["help"]:
                print(HELP)
            elif words:
                _run(editor, shell_parser().parse_args(words))
            sys.stdout.flush()
        except SystemExit as stop:  # argparse has said why
            refused_n += stop.code != 0
        except BrokenPipeError:
            raise
        except wording.REFUSALS as error:
            refused_n += 1
            print(f"liveedit: error: {wording.one_line(error)}", file=sys.stderr)
    return 2 if refused_n and not typed else 0


def _typed_lines() -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history)
    print("`help` shows the verbs", file=sys.stderr)
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()
            return


def _run(editor: EditingSession, args: Namespace) -> None:
    match args.verb:
        case "edit":
            verbs.edit(editor, verbs.read_requests(args), args)
        case "ask":
            verbs.ask(editor, verbs.read_question(args), args)
        case "list":
            verbs.list_edits(editor.store, args)
        case "forget":
            verbs.forget(editor, args)
        case "purge":
            verbs.purge(editor, args)
        case "rollback":
            verbs.rollback(editor, args)
        case "info":
            hashes = editor.encoder.header.hashes
            verbs.info(editor.store, editor.max_edits, editor.model.name, hashes)
