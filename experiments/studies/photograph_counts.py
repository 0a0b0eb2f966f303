"""The questions asked about edited photographs, and how their answers are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.studies.photograph_folder import PhotographCase
from liveedit_jax.data.facts import digest

TARGETED = ("own", "reworded", "view")  # right where the answer is the target
KINDS = (*TARGETED, "others", "elsewhere")  # the last two are unwanted changes
LABELS = {
    "own": "own question, answered with the target",
    "reworded": "reworded question, answered with the target",
    "view": "own question about the view, answered with the target",
    "others": "other questions about an edited photograph, answer changed",
    "elsewhere": "the same question about other photographs, answer changed",
}
OWN, SHOWN, ANOTHER, ELSE = (
    "to the edit's own target",
    "to the target of the photograph's own edit",
    "to another edit's target",
    "to something else",
)


@dataclass(frozen=True)
class PhotographProbe:
    """A question of case number `case`, asked about the photograph of case number `shown`."""

    kind: str
    case: int
    shown: int
    prompt: str


def list_probes(
    cases: Sequence[PhotographCase], others_n: int | None = None
) -> list[PhotographProbe]:
    """List everything that is asked.

    A case's question is also asked about other photographs, except those whose own edit is about
    the very same question.

    Args:
        cases: the photographs.
        others_n: the number of other photographs that a case's question is asked about (None: all);
            they are chosen by a sha256 of both names.
    """
    probes = []
    for i, case in enumerate(cases):
        probes += [
            PhotographProbe("own", i, i, case.question),
            PhotographProbe("reworded", i, i, case.rephrase),
            PhotographProbe("view", i, i, case.question),
            *(PhotographProbe("others", i, i, question) for question in case.others),
        ]
        chosen = [j for j, other in enumerate(cases) if j != i and not other.asks(case.question)]
        if others_n is not None:
            chosen.sort(key=lambda j, name=case.name: digest("elsewhere", name, cases[j].name))
        probes += [
            PhotographProbe("elsewhere", i, j, case.question) for j in sorted(chosen[:others_n])
        ]
    return probes


def judge_answer(
    cases: Sequence[PhotographCase], probe: PhotographProbe, before: str, after: str
) -> dict:
    """Judge the answers to a probe.

    Returns:
        The probe and its answers as plain values; "right" for a probe that should get the target,
        "changed" for one whose answer should stay, and if it changed, "became" and, where the new
        answer is an edit's target, "target_of".
    """
    row = {
        "kind": probe.kind,
        "case": probe.case,
        "shown": cases[probe.shown].name,
        "prompt": probe.prompt,
        "before": before,
        "after": after,
    }
    after = after.strip()
    if probe.kind in TARGETED:
        return row | {"right": after == cases[probe.case].target.strip()}
    if after == before.strip():
        return row | {"changed": False}
    order = [probe.case, probe.shown, *range(len(cases))]
    found = next((i for i in order if after == cases[i].target.strip()), None)
    became = {probe.shown: SHOWN, None: ELSE} | {probe.case: OWN}
    became = became.get(found, ANOTHER)
    target_of = {} if found is None else {"target_of": cases[found].name}
    return row | {"changed": True, "became": became} | target_of


def count_shares(rows: Sequence[dict]) -> dict[str, dict]:
    """Compute the five shares in percent with their counts, by kind (None: nothing was asked)."""
    found = {}
    for kind in KINDS:
        some = [row for row in rows if row["kind"] == kind]
        field = "right" if kind in TARGETED else "changed"
        n = sum(row[field] for row in some)
        share = round(100 * n / len(some), 2) if some else None
        found[kind] = {"share": share, "n": n, "of": len(some)}
        if kind not in TARGETED:
            words = (OWN, SHOWN, ANOTHER, ELSE) if kind == "elsewhere" else (OWN, ANOTHER, ELSE)
            became = [row.get("became") for row in some]
            found[kind]["became"] = {word: became.count(word) for word in words}
    return found
