"""The timings of `scale_repository`: ours, jitted, and the textbook's, one sample at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.bench.repository_cases import ANSWER_N, CFG, Model
from experiments.reference.textbook import Pool, Textbook, append
from liveedit_jax.editor import liveedit, repository, rows
from liveedit_jax.types import Expert, Repository

ALL_CFG = replace(CFG, top_k=64)  # for repositories of which every expert is hit
MOST_BYTES = 8 * 2**30  # a textbook variant that needs a larger intermediate array is not run


def median_seconds(run: Callable, repeats: int, warm_n: int = 1) -> float:
    """Return the median time of one call, waiting for its results."""
    spent = []
    for _ in range(repeats + warm_n):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent[warm_n:])


_generate = jax.jit(liveedit.generate_expert, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _route(cfg, editor, repo, hidden, role):
    return liveedit.route(cfg, repo, liveedit.encode_query(cfg, editor, hidden, role))


@partial(jax.jit, static_argnums=0)
def _query(cfg, editor, repo, hidden, role):
    found = liveedit.route(cfg, repo, liveedit.encode_query(cfg, editor, hidden, role))
    return hidden + liveedit.residual(cfg, editor, repo, hidden, role, found), found


@partial(jax.jit, donate_argnums=0)
def _add(repo: Repository, expert: Expert, edit_id):
    return repository.add_edits(repo, expert, edit_id, jnp.ones(len(edit_id), bool))[0]


_rollback = jax.jit(repository.rollback, donate_argnums=0)


def expert_of(model: Model, i: int) -> Expert:
    """Generate our expert of one sample."""
    return _generate(CFG, model.editor, model.hidden[i : i + 1], model.role[i : i + 1])


def time_generation(model: Model, batch_n: int, repeats: int) -> float:
    """Time our generation of `batch_n` experts."""
    hidden, role = model.hidden[:batch_n], model.role[:batch_n]
    return median_seconds(lambda: _generate(CFG, model.editor, hidden, role), repeats)


def time_adds(
    model: Model, repos: list[Repository], repeats: int
) -> tuple[list[Repository], list[float]]:
    """Time storing one generated expert in each repository, in turn; every add is rolled back."""
    expert = jax.block_until_ready(expert_of(model, 0))
    edit_id, clocks = jnp.zeros(1, jnp.int32), [repo.clock + 0 for repo in repos]
    spent: list = [[] for _ in repos]
    for _ in range(repeats + 2):
        for i, clock in enumerate(clocks):
            repo = jax.block_until_ready(repos[i])
            begin = time.perf_counter()
            repo = jax.block_until_ready(_add(repo, expert, edit_id))
            spent[i].append(time.perf_counter() - begin)
            repos[i] = jax.block_until_ready(_rollback(repo, clock))
    return repos, [statistics.median(times[2:]) for times in spent]


def time_routing(model: Model, repo: Repository, batch_n: int, repeats: int) -> float:
    """Time encoding and routing `batch_n` queries in ours."""
    hidden, role = (x[:batch_n] for x in model.query_states)
    return median_seconds(lambda: _route(CFG, model.editor, repo, hidden, role), repeats)


def time_queries(model: Model, repo: Repository, batch_n: int, every: bool, repeats: int) -> float:
    """Time `batch_n` whole queries in ours: encode, route, and add the residual."""
    cfg, (hidden, role) = ALL_CFG if every else CFG, (x[:batch_n] for x in model.query_states)
    return median_seconds(lambda: _query(cfg, model.editor, repo, hidden, role), repeats)


def run_queries(model: Model, repo: Repository, every: bool, n: int):
    """Run all queries as one batch; returns the first n outputs and their routes."""
    out, found = _query(ALL_CFG if every else CFG, model.editor, repo, *model.query_states)
    return np.asarray(out[:n]), jax.tree.map(lambda x: np.asarray(x[:n]), found)


_scores = jax.jit(rows.products)
_copy = jax.jit(lambda new, old: old.at[:].set(new), donate_argnums=1)


def bandwidth(model: Model, repo: Repository, repeats: int) -> dict[str, float]:
    """Compare the bandwidth of computing one query's vision scores with that of a plain copy.

    Scores read the keys once; the copy of the same keys (into a donated array) reads and writes.
    """
    keys, x = repo.vision_key, model.query.vision[:1]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(keys))
    scores = median_seconds(lambda: _scores(keys, x), repeats)
    copy, spent = jax.block_until_ready(jnp.zeros_like(keys.value)), []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        copy = jax.block_until_ready(_copy(keys.value, copy))
        spent.append(time.perf_counter() - begin)
    copied = 2 * keys.value.nbytes / statistics.median(spent[1:])
    return {
        "scores_b1_s": scores,
        "scores_bytes_per_s": size / scores,
        "copy_bytes_per_s": copied,
        "share": size / scores / copied,
    }


def torch_pool(repo: Repository, n: int) -> Pool:
    """Return the first n rows of a float32 repository as the textbook's pool."""
    key = (CFG.queries_n, CFG.module_width)

    def tensor(name: str) -> torch.Tensor:
        value = torch.from_numpy(np.array(getattr(repo, name).value[:n]))
        return value.unflatten(-1, key) if name.endswith("key") else value

    return Pool(**{f.name: tensor(f.name) for f in fields(Pool)})


def sample_of(model: Model, i: int, answer: bool) -> list[torch.Tensor]:
    """Return one sample's VISION, PROMPT and, for edits, ANSWER states."""
    states = torch.from_numpy(np.array(model.hidden[i]))
    image, prompt, said = states.split(
        [model.vision_n, len(states) - model.vision_n - ANSWER_N, ANSWER_N]
    )
    return [image, prompt, said] if answer else [image, prompt]


def time_textbook(
    run: Callable[[int], object], samples_n: int, plain_bytes: int = 0
) -> dict[str, float | None]:
    """Time the textbook per sample, with and without opt_einsum; `best_s` is the faster median.

    The variant without is not run (None) where its intermediate array exceeds MOST_BYTES.
    """
    found: dict[str, float | None] = {"opt_einsum_s": None, "plain_s": None}
    for name in found:
        if name == "plain_s" and plain_bytes > MOST_BYTES:
            continue
        torch.backends.opt_einsum.enabled = name == "opt_einsum_s"
        run(0)
        spent = []
        for i in range(samples_n):
            begin = time.perf_counter()
            run(i)
            spent.append(time.perf_counter() - begin)
        found[name] = statistics.median(spent)
    torch.backends.opt_einsum.enabled = True
    return found | {"best_s": min(v for v in found.values() if v), "plain_bytes": plain_bytes}


def time_appends(book: Textbook, pool: Pool, model: Model, n: int) -> float:
    """Return the textbook's median time of the last five appends on the way to n experts."""
    expert, spent = book.make_expert(*sample_of(model, 0, True)), []
    pool = Pool(*(getattr(pool, f.name)[: n - 5] for f in fields(Pool)))
    for _ in range(5):
        begin = time.perf_counter()
        pool = append(pool, expert)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def plain_bytes(model: Model, hit_n: int) -> int:
    """Return the bytes of the intermediate [T, K, D] of the textbook's residual, no opt_einsum."""
    return 4 * model.query_states[0].shape[1] * hit_n * model.width
