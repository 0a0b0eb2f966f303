"""The program's flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping

from liveedit_jax import __version__
from liveedit_jax.cli.wording import plain, shorten
from liveedit_jax.config import REFINE_N

DEFAULT_REPO = "liveedit-repo"
DEFAULT_MAX_EDITS = 100_000

EDIT = "teach an answer about a picture; prints the edit's id once it is stored"
ASK = "the answer without and with the edits, and which edits fired"
ASK_MORE = (
    " (image: how much its picture resembles the question's over the threshold, it fires above 0;"
    " text: how much the prompts have in common, its weight is at most the sigmoid of it)"
)
LIST = "one line per live edit: id, prompt, target, picture"
FORGET = "end the life of one edit; rollback can undo this"
PURGE = "erase one edit, live or not, with its request, and its picture if no other edit has it"
ROLLBACK = "undo the last N operations"
INFO = "what the repository holds and which model made it"


class Parser(argparse.ArgumentParser):
    """argparse that refuses in one line."""

    def error(self, message: str):
        """Say what is wrong in one line, without the usage."""
        said = plain(shorten(message))
        self.exit(2, f"{self.prog}: error: {said} (see {self.prog} --help)\n")


def positive(text: str) -> int:
    """Read a whole number from 1 up, of plain digits (Python itself also takes 1_0)."""
    if not re.fullmatch("0*[1-9][0-9]{0,17}", text):  # what a database takes as a number
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 up")
    return int(text)


def natural(text: str) -> int:
    """Read a whole number from 0 up, of plain digits."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 up")
    return int(text)


def whole_number(text: str) -> int:
    """Read a whole number of plain digits, with or without a minus."""
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
    return int(text)


def add_edit(parser: Parser) -> None:
    """Add the flags of `edit`."""
    parser.add_argument("--image", metavar="FILE")
    parser.add_argument("--prompt")
    parser.add_argument("--target")
    parser.add_argument(
        "--from", dest="file", metavar="FILE.jsonl", help="one edit a line: image, prompt, target"
    )
    parser.add_argument(
        "--no-check", dest="check", action="store_false",
        help="do not ask the question back to see whether the edit took",
    )  # fmt: skip


def add_ask(parser: Parser) -> None:
    """Add the flags of `ask`."""
    parser.add_argument("--image", metavar="FILE", help="without it no edit can fire")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def add_list(parser: Parser) -> None:
    """Add the flags of `list`."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object a line")
    how.add_argument("--html", metavar="FILE", help="write a page that shows the pictures")


def add_forget(parser: Parser) -> None:
    """Add the argument of `forget`."""
    parser.add_argument("id", type=positive, metavar="ID")


def add_rollback(parser: Parser) -> None:
    """Add the argument of `rollback`."""
    parser.add_argument("operations", type=positive, metavar="N")


def add_memory(parser: Parser) -> None:
    """Add how a model is asked, and how experts are kept in memory."""
    parser.add_argument("--chat", action="store_true", help="apply the model's chat template")
    for part in ("keys", "bodies"):
        parser.add_argument(
            f"--{part}", choices=("float32", "bfloat16", "int8"), default="float32",
            help=f"how experts' {part} are kept in memory (default: %(default)s)",
        )  # fmt: skip


def add_disk(parser: Parser) -> None:
    """Add how a new repository keeps experts on disk."""
    parser.add_argument(
        "--disk", choices=("float32", "bfloat16"), default="float32",
        help="how a new repository keeps experts on disk (default: %(default)s)",
    )  # fmt: skip


def add_refine(parser: Parser) -> None:
    """Add how far edits that do not take are refined."""
    parser.add_argument(
        "--refine", type=natural, default=REFINE_N, metavar="N",
        help="most steps of descent on an edit that does not take, 0: none (default: %(default)s)",
    )  # fmt: skip


def add_out(parser: Parser, default: str, text: str) -> None:
    """Add where results go."""
    parser.add_argument(
        "--out", default=default, metavar="DIR", help=f"{text} (default: %(default)s)"
    )


def build_parser(text: str, run: Mapping[str, Callable]) -> Parser:
    """Make the parser of the whole program.

    Args:
        text: what the program is for.
        run: what each verb does with its arguments.
    """
    top = Parser(prog="liveedit", description=text, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"liveedit {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def bare(name: str, text: str, more: str = "") -> Parser:
        made = verbs.add_parser(name, help=text, description=text + more, allow_abbrev=False)
        made.set_defaults(run=run[name])
        return made

    def with_model(name: str, text: str, default: str | None = "tiny", more: str = "") -> Parser:
        made = bare(name, text, more)
        shown = "preset name or model folder" + (" (default: %(default)s)" if default else "")
        made.add_argument("--model", default=default, required=default is None, help=shown)
        return made

    def with_repo(name: str, text: str, more: str = "") -> Parser:
        made = with_model(name, text, more=more)
        made.add_argument(
            "--repo", default=DEFAULT_REPO, help="file of the edits (default: %(default)s)"
        )
        made.add_argument(
            "--max-edits", type=positive, default=DEFAULT_MAX_EDITS, metavar="N",
            help="live edits a repository may hold (default: %(default)s)",
        )  # fmt: skip
        return made

    made = with_repo("demo", "make one visible edit, then take 1,000 and measure them")
    add_out(made, "runs/demo", "where results go")
    made.set_defaults(repo=None)
    made = with_repo("edit", EDIT)
    add_edit(made)
    add_memory(made)
    add_disk(made)
    add_refine(made)
    made = with_repo("ask", ASK, ASK_MORE)
    add_ask(made)
    add_memory(made)
    made = with_repo("shell", "keep the model open and take edit, ask, list, ... line by line")
    add_memory(made)
    add_disk(made)
    add_refine(made)
    add_list(with_repo("list", LIST))
    add_forget(with_repo("forget", FORGET))
    add_rollback(with_repo("rollback", ROLLBACK))
    add_forget(with_repo("purge", PURGE))
    text = "write the live edits with their pictures to a new file, one JSON object a line"
    with_repo("export", text).add_argument("file", metavar="FILE.jsonl")
    made = with_repo("import", "take the edits of an exported file or of an old repository folder")
    made.add_argument("source", metavar="SOURCE")
    add_memory(made)
    add_disk(made)
    add_refine(made)
    add_refine(with_repo("rebuild", "re-make all experts from their requests with today's model"))
    with_repo("info", INFO)
    made = bare("convert", "a published checkpoint as a model folder")
    made.add_argument("--model", help="preset name (default: what the checkpoint's config says)")
    made.add_argument("--from", dest="source", required=True, metavar="DIR", help="or a hub id")
    made.add_argument("--to", dest="target", required=True, metavar="DIR")
    made.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    text = "a released editor checkpoint into a model folder"
    with_model("import-editor", text, None).add_argument("file", metavar="FILE")
    text = "a model folder's editor in the released form"
    with_model("export-editor", text).add_argument("file", metavar="FILE")
    made = bare("report", "compare finished evaluations: a page, tables and all numbers")
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished evaluation")
    add_out(made, "runs/report", "where it goes")
    return top


def shell_parser() -> Parser:
    """Make the parser of a line of the shell."""
    top = Parser(prog="liveedit", add_help=False, allow_abbrev=False)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for name, text, add in (
        ("edit", EDIT, add_edit),
        ("ask", ASK, add_ask),
        ("list", LIST, add_list),
        ("forget", FORGET, add_forget),
        ("rollback", ROLLBACK, add_rollback),
        ("purge", PURGE, add_forget),
        ("info", INFO, lambda parser: None),
    ):
        add(verbs.add_parser(name, description=text, allow_abbrev=False))
    return top
