"""Lower states on disk: a fixed number of batches whose frozen half is computed once.

A step reads nothing of the frozen model below its edit layer but these states, so that a run over
the same batches again and again can leave out tower and `lower`. One file for each batch and
process, in the dtype that they were computed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import Array
from tqdm import tqdm

from liveedit_jax.data.editing import EditingBatch
from liveedit_jax.store.durable import replace_file, replacing

WIDE = {"bfloat16": np.uint16}  # what numpy's files cannot name is kept as bits


@dataclass(frozen=True)
class StateCache:
    """A folder of states.

    Args:
        folder: where; made if it is not there.
        batches_n: how many batches there are; step i trains on batch i modulo this.
        about: what the states depend on, as plain values; another run's are refused.
        place: where a step has them on a mesh (None: on one device).
    """

    folder: Path
    batches_n: int
    about: dict
    place: NamedSharding | None = None

    def __post_init__(self):
        """Open the folder.

        Raises:
            ValueError: no batches, or states of something else.
        """
        if self.batches_n < 1:
            raise ValueError(f"batches_n={self.batches_n}: 1 or more")
        self.folder.mkdir(parents=True, exist_ok=True)
        file, about = self.folder / "about.json", json.loads(json.dumps(self.about))
        if file.exists():
            found = json.loads(file.read_text())
            differs = sorted(k for k in found | about if found.get(k) != about.get(k))
            if differs:
                name = differs[0]
                raise ValueError(
                    f"{self.folder} has states of another run ({name} is {found.get(name)}, not "
                    f"{about.get(name)}): use an empty folder"
                )
        elif jax.process_index() == 0:
            replace_file(file, json.dumps(about).encode())

    def reading(
        self,
        batch_at: Callable[[int], EditingBatch],
        states_of: Callable[[EditingBatch], Array],
    ) -> Callable[[int], tuple[Array, EditingBatch]]:
        """Return a function from a step's number to its states and its batch.

        Those that no file has are made first, and here: several processes make each together, so
        that they have to come to it in one order, which threads would not.

        Args:
            batch_at: from a step to its batch, on the host.
            states_of: from such a batch to its states, float[4N, T, D] (stacked as the batch is).
        """

        for i in tqdm(self._missing(), desc="lower states", mininterval=5):
            local = self._local(states_of(batch_at(i)))
            bits = WIDE.get(str(local.dtype), local.dtype)
            with replacing(self._file(i)) as out:
                np.save(out, local.view(bits))

        def at(step: int) -> tuple[Array, EditingBatch]:
            i = step % self.batches_n
            batch, local = batch_at(i), _read(self._file(i))
            if self.place is None:
                return jnp.asarray(local), batch
            return jax.make_array_from_process_local_data(self.place, local), batch

        return at

    def _file(self, i: int) -> Path:
        return self.folder / f"{i}.{jax.process_index()}.npy"

    def _missing(self) -> list[int]:
        """Batches of which some process has no file."""
        missing = np.array([not self._file(i).exists() for i in range(self.batches_n)])
        if jax.process_count() > 1:
            missing = multihost_utils.process_allgather(missing).any(0)
        return np.flatnonzero(missing).tolist()

    def _local(self, states: Array) -> np.ndarray:
        """This process's samples, each once, in their order."""
        if self.place is None:
            return np.asarray(states)
        axis = len(self.place.spec) - 1  # of samples: the last that is named
        parts = {shard.index[axis].start or 0: shard.data for shard in states.addressable_shards}
        return np.concatenate([np.asarray(parts[first]) for first in sorted(parts)], axis)


def _read(file: Path) -> np.ndarray:
    try:
        array = np.load(file)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({error}): remove it, and it is made again") from error
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array
