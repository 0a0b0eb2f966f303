"""Roles, the seam, budgets and labels; packed rows equal separate rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from liveedit_jax.backbone_config import BackboneConfig, ClipConfig
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.images import decode_image, read_bytes
from liveedit_jax.data.packing import pack_row
from liveedit_jax.data.tokenise import Example, answer_labels, tokenise, tokenise_pair
from liveedit_jax.data.tokenizer import load_tokenizer, train_tokenizer
from liveedit_jax.types import Batch, Role

CFG = BackboneConfig(vision=ClipConfig(image_size=4, patch_size=2))
BUDGET = LengthBudget(prompt_n=20, answer_n=10)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["what is it? red fox", "a red fox runs"] * 4, 300)


def test_the_target_gets_one_space_only_where_there_is_none(tokenizer):
    def whole(prompt, target):
        ids, answer = tokenise_pair(tokenizer, prompt, target, "")
        return tokenizer.decode(ids + answer), tokenizer.decode(answer)

    assert whole("what?", "red") == ("what? red", " red")
    with pytest.raises(ValueError, match="remove the space"):
        whole("what? ", "red")  # the space and the target are one token
    assert whole("what?", " red") == ("what? red", " red")
    assert whole("what?\n", "red") == ("what?\nred", "red")


def test_roles_follow_the_layout(tokenizer):
    image = np.zeros((4, 4, 3), np.float32)
    examples = [Example("what?", "red", image), Example("what?", "red", None)]
    batch = tokenise(tokenizer, CFG, examples, BUDGET)
    prompt, answer = tokenise_pair(tokenizer, "what?", "red", "\n")
    text = tokenizer.decode(prompt)
    assert text == "\nwhat?"  # the newline after the image belongs to the prompt
    expected = [Role.PRE] + [Role.VISION] * 4 + [Role.PROMPT] * len(prompt)
    expected += [Role.ANSWER] * len(answer)
    assert batch.role[0, : len(expected)].tolist() == expected
    assert (batch.role[0, len(expected) :] == Role.PAD).all()
    assert not (batch.role[1] == Role.VISION).any()


def test_labels_predict_the_answer_and_then_eos(tokenizer):
    batch = tokenise(tokenizer, CFG, [Example("what?", "red fox", None)], BUDGET)
    label, answer, eos = map(np.asarray, answer_labels(batch, CFG.eos_id))
    _, ids = tokenise_pair(tokenizer, "what?", "red fox", "")
    assert label[0][answer[0]].tolist() == ids and label[0][eos[0]].tolist() == [CFG.eos_id]
    assert np.flatnonzero(eos[0])[0] == np.flatnonzero(answer[0])[-1] + 1


@pytest.mark.parametrize(
    "prompt, target, says",
    [
        (" ", "red", "prompt is empty"),
        ("what?", "\n", "target is empty"),
        ("what?", "x" * 99, "target has .* tokens, the budget is 10"),
        ("x" * 99, "red", "prompt has .* tokens, the budget is 20"),
    ],
)
def test_bad_text_is_named(tokenizer, prompt, target, says):
    with pytest.raises(ValueError, match=says):
        tokenise(tokenizer, CFG, [Example(prompt, target, None)], BUDGET)


def test_a_wrong_image_shape_is_named(tokenizer):
    with pytest.raises(ValueError, match="image shape"):
        tokenise(tokenizer, CFG, [Example("a", "b", np.zeros((3, 4, 3), np.float32))], BUDGET)


def test_special_tokens_in_text_stay_text(tokenizer):
    assert CFG.eos_id not in tokenizer.encode("say <eos> now")
    assert tokenizer.decode(tokenizer.encode("größe ёж 狐")) == "größe ёж 狐"
    assert tokenizer.decode([*tokenizer.encode("red"), CFG.eos_id, 9, 9]) == "red"


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    assert load_tokenizer(tmp_path / "t.json").encode("a red fox") == tokenizer.encode("a red fox")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match="not a valid"):
        load_tokenizer(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path / "none.json")


def test_what_does_not_fit_a_packed_row_is_left_out():
    row, n = pack_row([([5], [6, 7]), ([5] * 9, [6]), ([8], [9])], 8, 1, 2)
    assert n == 2 and row["token"].tolist() == [1, 0, 0, 5, 6, 7, 8, 9]
    assert row["segment"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert row["position"].tolist() == [0, 1, 2, 3, 4, 5, 3, 4]
    batch = Batch(*(jnp.asarray(row[k])[None] for k in ("token", "role")), None)
    batch = batch.replace(segment=jnp.asarray(row["segment"])[None])
    label, answer, eos = map(np.asarray, answer_labels(batch, 2))
    assert label[0][answer[0]].tolist() == [6, 7, 9] and eos[0].sum() == 2


def test_bad_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image file"):
        read_bytes(tmp_path / "none.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    with pytest.raises(ValueError, match="bad.png is not a readable image"):
        decode_image(read_bytes(tmp_path / "bad.png"), 8, "bad.png")


def test_any_mode_and_shape_becomes_a_white_padded_square(tmp_path):
    from PIL import Image

    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (20, 10)).save(tmp_path / "x.png")
        picture = decode_image((tmp_path / "x.png").read_bytes(), 8)
        assert picture.shape == (8, 8, 3) and (picture[0] == 255).all()
