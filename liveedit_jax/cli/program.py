"""The `liveedit` program: edit a vision-language model, ask it, list and undo edits.

Every refusal is one line on stderr and exit status 2, with the stored edits as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from liveedit_jax import __version__
from liveedit_jax.cache import keep_compiled
from liveedit_jax.cli import wording as cli_text

DEFAULT_REPO = "liveedit-repo"
DEFAULT_MAX_EDITS = 100_000
CHAT = "put the words around image and prompt that the model was tuned with"


class Parser(argparse.ArgumentParser):
    """argparse that refuses in one line."""

    def error(self, message: str):
        """One line instead of the usage."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _demo(args) -> None:
    from liveedit_jax.cli import demo

    demo.run_demo(args.model, Path(args.out), args.repo, args.max_edits, (1, 10, 100, 1000))


def _edit(args) -> None:
    from liveedit_jax.cli import requests

    one = (args.image, args.prompt, args.target)
    if args.file is not None:
        if any(part is not None for part in one):
            raise ValueError("give either --from or --image, --prompt and --target, not both")
        lines = requests.read_lines(Path(args.file))
    else:
        if any(part is None for part in one):
            raise ValueError("an edit needs --image, --prompt and --target (or --from FILE.jsonl)")
        lines = [requests.check(*one)]
    with _session(args, write=True) as editor:
        for edit_id in requests.apply(editor, lines, args.file):
            print(edit_id, flush=True)


def _ask(args) -> None:
    from liveedit_jax.cli import requests

    image = requests.read_image(args.image) if args.image is not None else None
    requests.check_text("prompt", args.prompt)
    with _session(args) as editor:
        answer = editor.ask(image, args.prompt)
    print(json.dumps(cli_text.answer_json(answer)) if args.json else cli_text.answer(answer))


def _list(args) -> None:
    with _store(args) as store:
        edits = store.history.live_edits()
    if args.json:
        for edit in edits:
            print(json.dumps(cli_text.edit_json(edit), ensure_ascii=False))
        return
    width = os.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in cli_text.edit_lines(edits, width):
        print(line)


def _forget(args) -> None:
    with _store(args, write=True, model=True) as store:
        store.forget(args.id)
    print(f"forgot edit {args.id}")


def _rollback(args) -> None:
    with _store(args, write=True, model=True) as store:
        store.rollback(args.operations)
        live_n = len(store.history.live)
    print(f"undid {args.operations} operations; {live_n} edits live")


def _rebuild(args) -> None:
    from liveedit_jax.session import rebuild_repository

    print(f"re-made {rebuild_repository(args.repo, args.model)} experts")


def _info(args) -> None:
    from liveedit_jax.session import model_hashes

    with _store(args) as store:
        print(cli_text.info(store, args.max_edits, args.model, model_hashes(args.model)))


def _convert(args) -> None:
    from liveedit_jax.backbone_presets import BACKBONES
    from liveedit_jax.model_io import exchange
    from liveedit_jax.presets import PUBLISHED

    if args.model not in PUBLISHED:
        raise ValueError(f"unknown model {args.model!r}; known: {', '.join(PUBLISHED)}")
    source, cfg = exchange.fetch_source(args.source), BACKBONES[args.model]
    print(exchange.convert_backbone(cfg, args.model, source, Path(args.target), args.dtype))


def _import_editor(args) -> None:
    from liveedit_jax.model_io import exchange

    print(exchange.import_editor(Path(args.file), args.model))


def _export_editor(args) -> None:
    from liveedit_jax.model_io import exchange

    exchange.export_editor(args.model, Path(args.file))
    print(args.file)


def _report(args) -> None:
    from liveedit_jax.report.runs import report_runs

    table, files = report_runs(args.runs, args.out)
    print(table)
    for file in files:
        print(file)


def _session(args, write: bool = False):
    from liveedit_jax.config import Precision, StorageConfig
    from liveedit_jax.session import open_editor

    storage = StorageConfig(keys=Precision(args.keys), bodies=Precision(args.bodies))
    editor = open_editor(args.model, args.repo, write, args.max_edits, args.chat, storage)
    for note in cli_text.dropped(editor, write):
        print(f"liveedit: note: {note}", file=sys.stderr)
    return editor


def _store(args, write: bool = False, model: bool = False):
    """The repository without a model; `model=True` still refuses one made with another model."""
    from liveedit_jax.store import open_store, read_header

    if model:
        from liveedit_jax.session import model_hashes

        read_header(Path(args.repo)).check_model(args.repo, *model_hashes(args.model))
    store = open_store(args.repo, write=write)
    if store.torn_n:
        print(f"liveedit: note: {cli_text.torn(store, write)}", file=sys.stderr)
    return store


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return value


def parser() -> Parser:
    """The program's arguments."""
    top = Parser(prog="liveedit", description=__doc__.splitlines()[0], allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"liveedit {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def plain(name: str, run, text: str) -> Parser:
        made = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run=run)
        made.add_argument(
            "--model", default="tiny", help="preset name or model folder (default: %(default)s)"
        )
        return made

    def verb(name: str, run, text: str) -> Parser:
        made = plain(name, run, text)
        made.add_argument(
            "--repo", default=DEFAULT_REPO, help="folder of the edits (default: %(default)s)"
        )
        made.add_argument(
            "--max-edits", type=_positive, default=DEFAULT_MAX_EDITS, metavar="N",
            help="live edits a repository may hold (default: %(default)s)",
        )  # fmt: skip
        return made

    def asking(made: Parser) -> None:
        """What `edit` and `ask` share."""
        made.add_argument("--chat", action="store_true", help=CHAT)
        for part in ("keys", "bodies"):
            made.add_argument(
                f"--{part}", choices=("float32", "bfloat16", "int8"), default="float32",
                help=f"how experts' {part} are kept in memory (default: %(default)s)",
            )  # fmt: skip

    made = verb("demo", _demo, "make one visible edit, then take 1,000 and measure them")
    made.add_argument("--out", default="runs/demo", help="where results go (default: %(default)s)")
    made.set_defaults(repo=None)
    made = verb("edit", _edit, "teach an answer about a picture; prints the edit's id once stored")
    made.add_argument("--image", metavar="FILE")
    made.add_argument("--prompt")
    made.add_argument("--target")
    made.add_argument(
        "--from", dest="file", metavar="FILE.jsonl", help="one edit a line: image, prompt, target"
    )
    asking(made)
    made = verb("ask", _ask, "the answer before and after the edits, and which edits fired")
    made.add_argument("--image", metavar="FILE", help="without it no edit can fire")
    made.add_argument("--prompt", required=True)
    asking(made)
    made.add_argument("--json", action="store_true", help="one JSON object")
    made = verb("list", _list, "one line per live edit: id, prompt, target")
    made.add_argument("--json", action="store_true", help="one JSON object a line")
    made = verb("forget", _forget, "end the life of one edit")
    made.add_argument("id", type=_positive, metavar="ID")
    made = verb("rollback", _rollback, "undo the last N operations")
    made.add_argument("operations", type=_positive, metavar="N")
    verb("rebuild", _rebuild, "re-make all experts from their requests with today's model")
    verb("info", _info, "what the repository holds and which model made it")
    made = plain("convert", _convert, "a published checkpoint as a model folder")
    made.add_argument("--from", dest="source", required=True, metavar="DIR", help="or a hub id")
    made.add_argument("--to", dest="target", required=True, metavar="DIR")
    made.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    made = plain(
        "import-editor", _import_editor, "a released editor checkpoint into a model folder"
    )
    made.add_argument("file", metavar="FILE")
    made = plain("export-editor", _export_editor, "a model folder's editor in the released form")
    made.add_argument("file", metavar="FILE")
    text = "compare finished evaluations: a page, tables and all numbers"
    made = verbs.add_parser("report", help=text, description=text, allow_abbrev=False)
    made.set_defaults(run=_report)
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished evaluation")
    made.add_argument(
        "--out", default="runs/report", metavar="DIR", help="where it goes (default: %(default)s)"
    )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status (0, or 2 when something was refused)."""
    try:
        args = parser().parse_args(argv)
        keep_compiled()
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe went away: nothing of ours is lost
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, KeyError, OverflowError) as error:
        print(f"liveedit: error: {cli_text.one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("liveedit: stopped; everything printed so far is stored", file=sys.stderr)
        return 130
    return 0
