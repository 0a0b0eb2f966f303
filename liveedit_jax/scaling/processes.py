"""Training with several processes: start-up, and arrays to which each process gives its part."""

from __future__ import annotations

import os

import jax
import numpy as np
from jax.sharding import NamedSharding


def start(
    coordinator: str | None = None, processes_n: int | None = None, process_id: int | None = None
) -> None:
    """Connect this process to the others; call it on every host, before any other use of JAX.

    With a coordinator ("host:port" of process 0), all arguments are needed. Without one, JAX finds
    the processes from the variables of Slurm or of a TPU pod; elsewhere there is one process.

    Raises:
        ValueError: a coordinator without `processes_n` and `process_id`.
    """
    if coordinator is not None:
        if processes_n is None or process_id is None:
            raise ValueError(
                f"coordinator={coordinator}: say how many processes there are and which this is"
            )
        jax.distributed.initialize(coordinator, processes_n, process_id)
    elif _in_a_cluster():
        jax.distributed.initialize()


def _in_a_cluster() -> bool:
    tasks_n = int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_JOB_ID" in os.environ else 1
    return tasks_n > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def put_on_mesh(tree, shardings):
    """Put host arrays, which every process has, on the whole mesh; each process puts its part.

    Args:
        tree: a tree of arrays.
        shardings: a tree of shardings, or one for all leaves.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put(leaf, place: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, place, lambda part: host[part])

    return jax.tree.map(put, tree, shardings)
