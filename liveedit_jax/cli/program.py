"""The `liveedit` program: edit a vision-language model, ask it, list and undo edits.

Every refusal is one line on stderr and exit status 2, with the stored edits as they were. Where
the reader of standard output goes away (`| head`), the status is 141, as a shell's for SIGPIPE.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from liveedit_jax.cache import keep_compiled
from liveedit_jax.cli import verbs, wording
from liveedit_jax.cli.arguments import Parser, build_parser

if TYPE_CHECKING:
    from liveedit_jax.session import EditingSession
    from liveedit_jax.store import Store


def _demo(args: Namespace) -> None:
    from liveedit_jax.cli import demo

    demo.run_demo(args.model, Path(args.out), args.repo, args.max_edits, (1, 10, 100, 1000))


def _edit(args: Namespace) -> None:
    lines = verbs.read_requests(args)
    with _session(args, write=True) as editor:
        verbs.edit(editor, lines, args)


def _ask(args: Namespace) -> None:
    image = verbs.read_question(args)
    if not Path(args.repo).exists():
        from liveedit_jax.session import open_model

        verbs.ask_model(open_model(args.model, args.chat), image, args)
        return
    with _session(args) as editor:
        verbs.ask(editor, image, args)


def _shell(args: Namespace) -> int:
    from liveedit_jax.cli.shell import run_shell

    with _session(args, write=True) as editor:
        return run_shell(editor)


def _list(args: Namespace) -> None:
    with _store(args) as store:
        verbs.list_edits(store, args)


def _forget(args: Namespace) -> None:
    with _store(args, write=True) as store:
        verbs.forget(store, args)


def _rollback(args: Namespace) -> None:
    with _store(args, write=True) as store:
        verbs.rollback(store, args)


def _purge(args: Namespace) -> None:
    with _store(args, write=True) as store:
        verbs.purge(store, args)


def _export(args: Namespace) -> None:
    from liveedit_jax.session.transfer import export_edits

    with _store(args) as store:
        done = export_edits(store, Path(args.file))
    print(f"exported {done.edits_n} edits to {args.file}")
    _refuse(store.path, done.refused, "exported")


def _import(args: Namespace) -> None:
    from tqdm import tqdm

    from liveedit_jax.session.transfer import import_edits

    source = Path(args.source)
    if not source.exists():
        raise FileNotFoundError(f"no file and no folder at {source}")
    with (
        _session(args, write=True) as editor,
        tqdm(unit="edit", disable=not sys.stderr.isatty()) as bar,
    ):
        done = import_edits(editor, source, bar.update)
    print(f"imported {done.edits_n} edits into {args.repo}")
    _refuse(source, done.refused, "imported")


def _refuse(source: Path, refused: dict[str, str], done: str) -> None:
    """Name what was left out, the first with its reason."""
    if refused:
        (where, reason), *rest = refused.items()
        more = ", ".join(where for where, _ in rest[:9]) + (", ..." if len(rest) > 9 else "")
        more = f" (and {len(rest)} more: {more})" if rest else ""
        raise ValueError(f"{source} {where}: {reason}{more}; all others are {done}")


def _rebuild(args: Namespace) -> None:
    from liveedit_jax.session import rebuild_repository

    rebuilt = rebuild_repository(args.repo, args.model, args.refine)
    print(f"re-made {rebuilt.made_n} experts")
    for edit_id, reason in rebuilt.skipped.items():
        verbs.note(f"edit {edit_id} was skipped and has no expert: {wording.plain(reason)}")


def _info(args: Namespace) -> None:
    from liveedit_jax.session import model_hashes

    with _store(args) as store:
        verbs.info(store, args.max_edits, args.model, model_hashes(args.model))


def _convert(args: Namespace) -> None:
    from liveedit_jax.backbone_presets import BACKBONES
    from liveedit_jax.model_io import exchange
    from liveedit_jax.presets import PUBLISHED

    target = Path(args.target)
    if args.model is None:
        print(exchange.convert_published(exchange.fetch_source(args.source), target, args.dtype))
        return
    if args.model not in PUBLISHED:
        raise ValueError(
            f"{args.model!r} is no published model that can be converted: give --model one of "
            f"{', '.join(PUBLISHED)}"
        )
    source, cfg = exchange.fetch_source(args.source), BACKBONES[args.model]
    print(exchange.convert_backbone(cfg, args.model, source, target, args.dtype))


def _import_editor(args: Namespace) -> None:
    from liveedit_jax.model_io import exchange

    print(exchange.import_editor(Path(args.file), args.model))


def _export_editor(args: Namespace) -> None:
    from liveedit_jax.model_io import exchange

    exchange.export_editor(args.model, Path(args.file))
    print(args.file)


def _report(args: Namespace) -> None:
    from liveedit_jax.report.runs import report_runs

    table, files = report_runs(args.runs, args.out)
    print(table)
    for file in files:
        print(file)


VERBS = {
    "demo": _demo,
    "edit": _edit,
    "ask": _ask,
    "shell": _shell,
    "list": _list,
    "forget": _forget,
    "rollback": _rollback,
    "purge": _purge,
    "export": _export,
    "import": _import,
    "rebuild": _rebuild,
    "info": _info,
    "convert": _convert,
    "import-editor": _import_editor,
    "export-editor": _export_editor,
    "report": _report,
}


def _session(args: Namespace, write: bool = False) -> EditingSession:
    from liveedit_jax.config import Precision, StorageConfig
    from liveedit_jax.session import open_editor

    storage = StorageConfig(keys=Precision(args.keys), bodies=Precision(args.bodies))
    disk = Precision(args.disk) if write else Precision.F32
    refine_n = args.refine if write else 0
    editor = open_editor(
        args.model, args.repo, write, args.max_edits, args.chat, storage, disk, refine_n
    )
    without = wording.without_expert(editor.store)
    if without:
        verbs.note(without)
    return editor


def _store(args: Namespace, write: bool = False) -> Store:
    """Open the repository without a model; for writing, it has to be this model's."""
    from liveedit_jax.store import open_store, read_header

    if write:
        from liveedit_jax.session import model_hashes

        path = Path(args.repo)
        read_header(path).check_model(path, model_hashes(args.model), args.model)
    return open_store(args.repo, write=write)


def parser() -> Parser:
    """Make the parser of the program's arguments."""
    return build_parser(__doc__.splitlines()[0], VERBS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status (0, or 2 when something was refused)."""
    try:
        prepare_streams()
        logging.getLogger("PIL").addHandler(logging.NullHandler())  # what matters is in our line
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            return _run(argv)
    except BrokenPipeError:  # the reader of a pipe went away: nothing of ours is lost
        _drop_output()
        return 141
    except wording.REFUSALS as error:
        said = wording.one_line(error)
        if not _can_write():
            said = f"standard output cannot be written to ({said})"
            _drop_output()
        print(f"liveedit: error: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("liveedit: stopped; everything printed so far is stored", file=sys.stderr)
        return 130


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(argv)
        keep_compiled()
        return args.run(args) or 0
    finally:
        sys.stdout.flush()


def prepare_streams() -> None:
    """Have the standard streams take any character; those that are closed are seen to.

    Raises:
        OSError: standard output is closed, so that nothing could be told.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        raise OSError("standard output is closed: nothing was done; give >/dev/null to see nothing")
    for stream, errors in (
        (sys.stdin, "surrogateescape"),  # a bad line of the shell is refused alone
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def _can_write() -> bool:
    try:
        if sys.stdout is not None:  # where it is None, the error says so
            sys.stdout.flush()
    except (OSError, ValueError):
        return False
    return True


def _drop_output() -> None:
    """Point standard output at nothing, so that Python's own last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
