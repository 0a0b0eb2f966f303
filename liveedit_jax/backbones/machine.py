"""Errors that a lack of the machine causes, told apart from those of a damaged file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import jax

from liveedit_jax.data.files import first_line

ERRNOS = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
SAYINGS = (  # of libraries that raise the same class whatever has happened
    *("permission denied", "permission_denied", "too many open files", "input/output error"),
    *("out of memory", "cannot allocate memory", "resource_exhausted", "can't start new thread"),
    *("unable to initialize backend", "unknown backend"),
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_lack(error: BaseException) -> str | None:
    """Say what the machine lacks where that is why a file could not be read; None where it is not.

    Permission, memory, file handles, threads, a disk that answers, or an accelerator.
    """
    for each in _causes(error):
        if isinstance(each, MemoryError):
            return "out of memory"
        if isinstance(each, OSError) and each.errno in ERRNOS:
            return each.strerror or first_line(each)
        said = next((line for line in str(each).splitlines() if _is_lack(line)), None)
        if said is not None:
            return said.strip()[:200]
    return None


def _is_lack(line: str) -> bool:
    return any(saying in line.lower() for saying in SAYINGS)


def first_device() -> jax.Device:
    """Return this process's first device.

    Raises:
        OSError: JAX cannot start on what JAX_PLATFORMS asks for.
    """
    try:
        return jax.local_devices()[0]
    except Exception as error:  # RuntimeError, or AssertionError without a word
        asked = os.environ.get("JAX_PLATFORMS")
        raise OSError(
            f"JAX finds no device to compute on ({first_line(error)}; JAX_PLATFORMS is "
            f"{asked or 'not set'}): set JAX_PLATFORMS=cpu, or install what JAX needs for the "
            "accelerator"
        ) from error
