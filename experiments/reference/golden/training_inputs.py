"""One stored training batch as the arguments of our objective."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from experiments.reference.golden.case import MODEL_TOLERANCE, Arrays, GoldenCase
from experiments.reference.golden.editing import compare_labels, compare_span, expand_row
from experiments.reference.golden.rows import PARTS, pad, roles, stack, states
from liveedit_jax.data.tokenise import without_pixels
from liveedit_jax.editor.objective import Masks, Pairs, Pool, Requests, Samples
from liveedit_jax.types import Role


@dataclass(frozen=True)
class Step:
    """The objective's arguments, and the names of the groups of samples."""

    requests: Requests
    reliability: Samples
    generalities: tuple[Samples, ...]
    locality: Samples
    pool: Pool
    masks: Masks
    pairs: Pairs
    groups: tuple[str, ...]  # rel, gen/..., loc/...
    lengths: tuple[list[int], ...]  # T of every sample, by group

    @property
    def arguments(self) -> tuple:
        """Return the arguments after the weights of `objective.training_loss`."""
        return (
            self.requests,
            self.reliability,
            self.generalities,
            self.locality,
            self.pool,
            self.masks,
            self.pairs,
        )


def read_step(case: GoldenCase) -> Step:
    """Read the batch; in a whole case, also compare its states with ours."""
    stored = case.arrays("train_inputs")
    masks = Masks(*(stored[f"{name}_moe_mask"] for name in ("rel", "gen", "loc")))
    b = len(masks.reliability)
    owners, requests = [], []
    for j in range(b):
        for q in range(stored.count(f"edit_signal/{j}/{{}}/")):
            owners.append(j)
            requests.append(_request(case, stored, f"{j}/{q}"))
    _check_masks(case, stored, masks, np.array(owners))
    names = tuple(f"gen/{name}" for name in stored.children("gen/"))
    groups = ("rel", *names, *(f"loc/{name}" for name in stored.children("loc/")))
    read = [[_sample(case, stored, f"{group}/{j}") for j in range(b)] for group in groups]
    samples = [_stack_samples([row for row, _ in group]) for group in read]
    sides = [f"{kind}/{side}" for kind in ("neib", "prot") for side in (0, 1)]
    pool = [
        states(
            (Role.VISION, stored[f"{side}/{j}/vision"]), (Role.PROMPT, stored[f"{side}/{j}/query"])
        )
        for side in sides
        for j in range(b)
    ]
    side = [jnp.full(b, i) for i in range(4)]
    return Step(
        requests=Requests(stack([h for h, _ in requests]), stack([r for _, r in requests])),
        reliability=samples[0],
        generalities=tuple(samples[1:-1]),
        locality=samples[-1],
        pool=Pool(*(by_sample(stack(column), b) for column in zip(*pool, strict=True))),
        masks=masks,
        pairs=Pairs(jnp.stack(side[:2]), jnp.stack(side[2:])),
        groups=groups,
        lengths=tuple([length for _, length in group] for group in read),
    )


def by_sample(leaf, b: int):
    """Reshape [V * B, ...] to [B, V, ...]."""
    return jnp.swapaxes(leaf.reshape(-1, b, *leaf.shape[1:]), 0, 1)


def _request(case: GoldenCase, stored: Arrays, item: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a request's states at the edit layer, and their roles."""
    parts = [(role, stored[f"edit_signal/{item}/{name}"]) for name, role in PARTS]
    if not case.is_part:
        ids, prompt = (
            stored[f"requests/{item}/llava_input_ids"],
            stored[f"requests/{item}/prompt_ids"],
        )
        answer_n = parts[-1][1].shape[1]
        case.compare(
            f"requests/{item}/prompt_ids",
            np.append(ids[0, 0], ids[0, -answer_n - prompt.size + 1 : -answer_n]),
            prompt.reshape(-1),
            0,
        )
        batch = expand_row(case, ids, stored[f"requests/{item}/pixel_values"], answer_n)
        hidden = case.functions.lower(batch, case.functions.features(batch.image))
        for name, role in PARTS:
            ours = hidden[:, batch.role[0] == role]
            want = stored[f"edit_signal/{item}/{name}"]
            case.compare(f"edit_signal/{item}/{name}", ours, want, MODEL_TOLERANCE)
    return states(*parts)


def _check_masks(case: GoldenCase, stored: Arrays, masks: Masks, owner: np.ndarray) -> None:
    """Check that every mask is a prefix of the experts plus, where due, the sample's own."""
    n = len(owner)
    for j in range(len(masks.reliability)):
        request = np.flatnonzero(owner == j)[int(stored[f"rel/{j}/request_i"])]
        for name, row, own in (
            ("rel", masks.reliability[j], np.arange(n) == request),
            ("gen", masks.generality[j], owner == j),
            ("loc", masks.locality[j], np.zeros(n, bool)),
        ):
            prefixes = [np.array_equal(row, (np.arange(n) < k) | own) for k in range(n + 1)]
            case.check(f"{name}_moe_mask/{j}", any(prefixes), "a prefix and its own experts")


def _sample(case: GoldenCase, stored: Arrays, item: str) -> tuple[tuple, int]:
    """Read hidden, role, label and mask of one sample (all [1, T, ...]), and its T."""
    hidden, label = stored[f"{item}/mid_reps"], stored[f"{item}/label_ids"]
    counted = stored[f"{item}/label_masks"]
    begin, end = (int(x) for x in stored[f"{item}/vt_range"])
    t, s = hidden.shape[1], label.shape[1]
    role = roles(
        (Role.PRE, begin),
        (Role.VISION, end - begin),
        (Role.PROMPT, t - end - (s - 1)),
        (Role.ANSWER, s - 1),
    )
    case.check(f"{item}/attention_mask", bool(stored[f"{item}/attention_mask"].all()), "all ones")
    case.compare(f"{item}/position_ids", np.arange(t)[None], stored[f"{item}/position_ids"], 0)
    ids = stored[f"{item}/llava_input_ids"]
    compare_labels(case, item, ids, label, counted)
    if not case.is_part:
        for name, kind in PARTS:
            ours, want = hidden[:, role[0] == kind], stored[f"{item}/edit_reps/{name}"]
            case.compare(f"{item}/edit_reps/{name}", ours, want, MODEL_TOLERANCE)
        _check_states(case, stored, item, ids, s - 1)
    labels, mask = (np.pad(x, ((0, 0), (t - s, 0))) for x in (label, counted > 0))
    return (hidden, role, labels, mask), t


def _check_states(
    case: GoldenCase, stored: Arrays, item: str, ids: np.ndarray, answer_n: int
) -> None:
    run = case.functions
    batch = expand_row(case, ids, stored[f"{item}/pixel_values"], answer_n)
    compare_span(case, f"{item}/vt_range", batch, stored[f"{item}/vt_range"])
    features = run.features(batch.image)
    hidden = run.lower(batch, features)
    for name, ours in (
        ("inputs_embeds", run.embed(batch, features)),
        ("mid_reps", hidden),
        ("logits_plain", run.upper(hidden, batch)),
    ):
        case.compare(f"{item}/{name}", ours, stored[f"{item}/{name}"], MODEL_TOLERANCE)


def _stack_samples(rows: list[tuple]) -> Samples:
    hidden, role, label, mask = (stack(column) for column in zip(*rows, strict=True))
    blank = without_pixels(jnp.zeros_like(role, jnp.int32), role)
    return Samples(hidden, blank, label, mask)


def pad_samples(samples: Samples, length_n: int) -> Samples:
    """Pad the samples' rows to `length_n`."""

    def longer(leaf):
        return jnp.asarray(pad(np.asarray(leaf), length_n))

    batch = samples.batch.replace(
        token=longer(samples.batch.token), role=longer(samples.batch.role)
    )
    return Samples(longer(samples.hidden), batch, longer(samples.label), longer(samples.mask))
