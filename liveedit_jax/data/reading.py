"""Parallel reading and preprocessing of pictures, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from liveedit_jax.backbone_config import BackboneConfig
from liveedit_jax.data.images import ProcessedImage, picture_bytes, preprocess

PICTURES_AHEAD_N = 4  # pictures in work or waiting, per thread


def read_pictures(
    cfg: BackboneConfig, stored: Iterable[bytes | Path], workers_n: int = 2
) -> Iterator[ProcessedImage]:
    """Read and preprocess pictures in threads; yield them in the order given.

    Args:
        cfg: the backbone whose preprocessing is applied.
        stored: encoded bytes or files; consumed lazily, so it may be endless.
        workers_n: number of threads.

    Raises:
        ValueError: no threads, or a picture that is not a complete image; names its file.
        FileNotFoundError: no such file.
    """
    if workers_n < 1:
        raise ValueError(f"workers_n={workers_n}: at least one thread has to read")
    return _read_in_order(cfg, stored, workers_n)


def _read_in_order(cfg, stored, workers_n) -> Iterator[ProcessedImage]:
    def read(i: int, picture: bytes | Path) -> ProcessedImage:
        name = f"picture {i}" if isinstance(picture, bytes) else str(picture)
        return preprocess(cfg, picture_bytes(picture), name)

    pool = ThreadPoolExecutor(workers_n, thread_name_prefix="pictures")
    try:
        jobs = (pool.submit(read, i, picture) for i, picture in enumerate(stored))
        waiting: deque[Future[ProcessedImage]] = deque(islice(jobs, workers_n * PICTURES_AHEAD_N))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(islice(jobs, 1))
            yield done
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
