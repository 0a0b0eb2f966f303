"""Records of a benchmark as cases of the protocol."""

from __future__ import annotations

from liveedit_jax.data import edit_stream
from liveedit_jax.data.images import decode_image
from liveedit_jax.data.records import Record
from liveedit_jax.evaluation.probes import Case, Probe


def case_of(record: Record, image_size: int) -> Case:
    """The probes of one record, pictures decoded at `image_size`."""

    def picture(field: str):
        return decode_image(record[field], image_size, f"{field} of {record.entity}")

    image = picture("image")
    probes = {
        "reliability": Probe(record.src, record.alt, image),
        "text_generality": Probe(record.rephrase, record.alt, image),
        "image_generality": Probe(record.src, record.alt, picture("image_rephrase")),
        "text_locality": Probe(record.loc, record.loc_ans, None),
        "image_locality": Probe(record.m_loc_q, record.m_loc_a, picture("m_loc")),
    }
    if record.same_image_q is not None:
        probes["same_image"] = Probe(record.same_image_q, record.same_image_a, image)
    if record.look_alike is not None:
        probes["look_alike"] = Probe(record.src, record.look_alike_a, picture("look_alike"))
    return Case(record.entity, record.fact, probes)


def stream_cases(split: str, seed: int, n: int, image_size: int) -> list[Case]:
    """The first `n` cases of a MojiEdit stream, drawn at the size they are read at."""
    records = edit_stream(split, seed, n, image_size=image_size)
    return [case_of(record, image_size) for record in records]
