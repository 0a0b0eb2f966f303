"""Training batches of a public benchmark: rows, epochs, pictures, refusals."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from liveedit_jax.config import EditorTrainConfig, LengthBudget
from liveedit_jax.data.annotations import PROMPTS
from liveedit_jax.data.benchmark_training import BenchmarkData
from liveedit_jax.data.records import Record
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.data.vocabulary import mojiedit_tokenizer
from liveedit_jax.presets import preset
from liveedit_jax.types import Role

TINY = preset("tiny").backbone
RECIPE = EditorTrainConfig(batch_n=3, seed=2)


def png(shade):
    data = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 0, 255 - shade)).save(data, format="PNG")
    return data.getvalue()


def record(i):
    return Record(
        src=f"What is {i}?", rephrase=f"Tell me what {i} is", alt=f"answer {i}", pred="no",
        image=png(3 * i), image_rephrase=png(3 * i + 1), loc="who", loc_ans="me",
        m_loc=png(3 * i + 2), m_loc_q=f"Is {i} round?", m_loc_a="no", entity=str(i), fact="",
        split="train", row=i,
    )  # fmt: skip


RECORDS = [record(i) for i in range(10)]


@pytest.fixture(scope="module")
def data():
    tokenizer = mojiedit_tokenizer(TINY.decoder.vocab_n)
    return BenchmarkData(tokenizer, TINY, RECIPE, RECORDS, PROMPTS["evqa"])


def test_rows_are_those_that_the_protocol_asks(data):
    batch = data.batch_at(0)
    assert batch.token.shape == (4, 3, 64) and batch.place is None
    for j in range(3):
        r = int(batch.picture[0, j]) // 4
        some = RECORDS[r]
        asked = [
            (f"{some.src} The answer is:", some.alt, some.image),
            (f"{some.rephrase} The answer is:", some.alt, some.image),
            (f"{some.src} The answer is:", some.alt, some.image_rephrase),
            (f"{some.m_loc_q} The answer is:", some.m_loc_a, some.m_loc),
        ]
        for kind, (prompt, answer, image) in enumerate(asked):
            pixels = data.picture(int(batch.picture[kind, j]))
            shown = np.asarray(Image.open(io.BytesIO(image)).getpixel((0, 0))) / 255
            middle = pixels[30, 30] * TINY.vision.image_std + TINY.vision.image_mean
            np.testing.assert_allclose(middle, shown, atol=0.01)
            example = Example(prompt, answer, pixels)
            row = tokenise(data.tokenizer, TINY, [example], LengthBudget())
            n = int((batch.role[kind, j] != Role.PAD).sum())
            np.testing.assert_array_equal(batch.token[kind, j, :n], row.token[0, :n])
            np.testing.assert_array_equal(batch.role[kind, j, :n], row.role[0, :n])
        subjects = batch.picture[:, j] // 2
        assert len(set(subjects[:3])) == 1 and subjects[3] != subjects[0]


def test_an_epoch_shows_every_record_once_and_the_next_in_another_order(data):
    def shown(steps):
        return [int(p) // 4 for step in steps for p in data.batch_at(step).picture[0]]

    first, second = shown(range(3)), shown(range(3, 6))
    assert len(set(first)) == 9 == len(set(second)) and first != second
    assert shown(range(3)) == first
    other = replace(data, cfg=replace(RECIPE, seed=3))
    assert [int(p) // 4 for p in other.batch_at(0).picture[0]] != first[:3]


def test_steps_of_several_batches(data):
    many = replace(data, cfg=replace(RECIPE, accumulate_n=2)).batch_at(1)
    assert many.token.shape == (2, 4, 3, 64)
    np.testing.assert_array_equal(many.token[0], data.batch_at(2).token)
    np.testing.assert_array_equal(many.picture[1], data.batch_at(3).picture)


def test_what_no_batch_can_be_made_of_is_refused(data):
    with pytest.raises(ValueError, match="10 records do not fill a batch of 11"):
        replace(data, cfg=replace(RECIPE, batch_n=11))
    with pytest.raises(ValueError, match="whose editor_train has answers_n="):
        replace(data, cfg=replace(RECIPE, answers_n=2))
    broken = replace(data, records=[replace(RECORDS[0], image=b"no picture"), *RECORDS[1:]])
    with pytest.raises(ValueError, match="image of row 0 is not a readable image"):
        broken.picture(0)
