"""The arguments that every training run takes."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from liveedit_jax.cli import arguments
from liveedit_jax.cli.arguments import Parser, whole_number
from liveedit_jax.data.files import first_line
from liveedit_jax.presets import PRESETS, preset


def add_config(parser: argparse.ArgumentParser) -> None:
    """The preset that everything else of a run is a part of."""

    def known(name: str) -> str:
        try:
            preset(name)
        except (KeyError, ValueError, OSError) as error:
            raise argparse.ArgumentTypeError(error.args[0]) from error
        return name

    shown = f"{', '.join(sorted(PRESETS))}, or a Python file that defines CONFIG"
    parser.add_argument("--config", default="tiny", type=known, help=shown)


def positive(kind: type) -> Callable[[str], float]:
    """Make an argument type: a number of `kind` above 0."""
    return arguments.positive if kind is int else _positive_float


def _positive_float(text: str) -> float:
    try:
        value = 0.0 if "_" in text else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0")
    return value


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End the program with one line and status 2 where what it was asked for cannot be done."""
    try:
        yield
    except (ValueError, OSError, KeyError, ImportError) as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{program}: error: {first_line(said)}", file=sys.stderr)
        sys.exit(2)


def training_parser(text: str, out: str, shipped: str) -> argparse.ArgumentParser:
    """A parser with preset, run folder, length, rate, seed and shipping.

    Args:
        text: the script's docstring; its first line is shown.
        out: the default run folder.
        shipped: what `--ship` writes.
    """
    parser = Parser(description=text.splitlines()[0])
    add_config(parser)
    parser.add_argument("--out", type=Path, default=Path(out), help="run folder, resumed from")
    parser.add_argument("--steps", type=positive(int), help="the recipe's number of steps")
    parser.add_argument("--learning-rate", type=positive(float), help="the recipe's rate")
    parser.add_argument("--seed", type=whole_number, default=0)
    parser.add_argument(
        "--stop-after",
        type=positive(float),
        metavar="MINUTES",
        help="stop then, everything before the first step included; the run can be resumed",
    )
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="frozen decoder kernels, and what they multiply, rounded to bfloat16",
    )
    parser.add_argument("--profile", type=Path, help="folder for a trace of a few steps")
    parser.add_argument("--ship", type=Path, help=f"model folder to write {shipped} to")
    return parser


def seconds_left(args: argparse.Namespace, begin: float) -> float | None:
    """Return what is left of `--stop-after` since `begin`, in seconds; None without it."""
    if args.stop_after is None:
        return None
    return max(60 * args.stop_after - (time.time() - begin), 0.0)


def to_ship(args: argparse.Namespace, step: int, steps_n: int, begin: float) -> bool:
    """Say how far a run is; whether it is at its end and its weights were asked for.

    Args:
        args: of `training_parser`.
        step, steps_n: the step that it is at, and its last.
        begin: `time.time()` where it went on.
    """
    print(f"step {step} of {steps_n} after {time.time() - begin:.0f} s of this run")
    if args.ship and step < steps_n:
        print("nothing is shipped before the end; the same command goes on")
    return bool(args.ship) and step >= steps_n
