"""Several processes that train as one: start-up, and arrays made of what each of them has."""

from __future__ import annotations

import os

import jax
import numpy as np
from jax.sharding import NamedSharding


def start(
    coordinator: str | None = None, processes_n: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes; call it before anything else of JAX, on every host alike.

    With a coordinator ("host:port" of process 0) all three are needed. Without one, Slurm's
    variables and a TPU pod's own are found by JAX; anywhere else there is one process.

    Raises:
        ValueError: a coordinator without how many processes there are, and which this is.
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


def spread(tree, shardings):
    """Host arrays that every process has, as arrays of the whole mesh: each places its part.

    Args:
        tree: arrays.
        shardings: one for every leaf, or one for all.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put(leaf, place: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, place, lambda part: host[part])

    return jax.tree.map(put, tree, shardings)
