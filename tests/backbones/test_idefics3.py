"""Idefics3 (transformers' `idefics3`): its processor, parity with Hugging Face, its own folder."""

import io
import json
from dataclasses import replace

import idefics3_cases as cases
import jax
import numpy as np
import pytest
from einops import rearrange
from PIL import Image
from torch_parity import channels_first, close

from liveedit_jax.backbone_config import Activation
from liveedit_jax.backbones import Backbone, idefics3
from liveedit_jax.backbones.idefics3_pictures import CLOSING, SplitConfig
from liveedit_jax.backbones.published import read_files
from liveedit_jax.backbones.registry import bridge, read_architecture, tower
from liveedit_jax.cli.program import main
from liveedit_jax.data.images import preprocess
from liveedit_jax.data.layout import join_layouts
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.session.model import open_model
from liveedit_jax.types import Role

KIND = "idefics3"
IDEFICS3_8B = {
    "scale_factor": 2,
    "vision_config": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "image_size": 364, "patch_size": 14,
    },
    "text_config": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128259, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.make_folder(KIND, tmp_path_factory.mktemp(KIND))


@pytest.fixture(scope="module")
def ours(folder):
    return cases.open_ours(KIND, folder)


@pytest.fixture(scope="module")
def batch(ours):
    return cases.our_batch(ours[0], ours[2], cases.few_questions())


@pytest.mark.parity
@pytest.mark.parametrize("chat", [False, True])
def test_pictures_and_rows_equal_the_processors(ours, chat):
    cases.check_processor(KIND, ours, chat)


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["RGBA", "L"])
def test_pictures_of_other_modes_equal_the_processors(ours, mode):
    cfg, data = ours[0].cfg, cases.png((50, 80), mode)
    theirs = cases.their_processor(KIND)([[Image.open(io.BytesIO(data))]], return_tensors="np")
    found = preprocess(cfg, data).pixels[: theirs["pixel_values"].shape[1]]
    np.testing.assert_allclose(found, np.moveaxis(theirs["pixel_values"][0], 1, -1), atol=1e-6)


@pytest.mark.parity
def test_a_picture_is_not_split_where_the_processor_does_not(ours):
    tiles = replace(ours[0].cfg.tiles, split=False)
    cfg, data = replace(ours[0].cfg, tiles=tiles), cases.png((50, 80))
    processor = cases.their_processor(KIND, do_image_splitting=False)
    theirs = processor([[Image.open(io.BytesIO(data))]], return_tensors="np")
    found = preprocess(cfg, data)
    assert [run.texts for run in found.layout] == [((CLOSING + "<global-img>", True),)]
    np.testing.assert_allclose(
        found.pixels, np.moveaxis(theirs["pixel_values"][0], 1, -1), atol=1e-6
    )


@pytest.mark.parity
def test_two_pictures_in_one_prompt_equal_the_original(ours):
    backbone, weights, tokenizer = ours
    cfg, shown = backbone.cfg, [cases.png((40, 90)), cases.png((200, 7))]
    pictures = [preprocess(cfg, data) for data in shown]
    tiles_n = cfg.tiles.tiles_n
    texts = [("see ", pictures[0].layout), (" and ", pictures[1].layout)]
    layout = join_layouts(texts, cfg.after_image, tiles_n * cfg.vision_n)
    pixels = np.concatenate([picture.pixels for picture in pictures])
    two = replace(cfg, tiles=TwoConfig(**vars(cfg.tiles)))  # a batch of twice as many tiles
    rows = tokenise(tokenizer, two, [Example("what?", "a", pixels, layout)], cases.BUDGET)
    text = "see <image> and <image>what? a"
    _, ids = cases.their_inputs(KIND, [text], [shown])
    assert cases.with_image_ids(rows, tokenizer) == ids
    role, token = rows.role[0], rows.token[0]
    words = [tokenizer.decode(token[at]) for at in np.split(*_prompt_runs(role))]
    assert words[0] == "see " and words[1] == " and " and words[2].endswith("what?")
    assert max(cases.difference(KIND, backbone, weights, rows, tokenizer)) < 1e-4


class TwoConfig(SplitConfig):
    """Room for the tiles of two pictures."""

    @property
    def tiles_n(self) -> int:
        return 2 * super().tiles_n


def _prompt_runs(role):
    at = np.flatnonzero(role == Role.PROMPT)
    return at, np.flatnonzero(np.diff(at) > 1) + 1


@pytest.mark.parity
def test_files_that_the_whole_processor_writes_say_the_same(folder, tmp_path):
    from transformers import Idefics3Processor, PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=cases.make_tokenizer(KIND))
    template = cases.HEADS[1] + cases.TEMPLATE
    whole = Idefics3Processor(
        cases.their_processor(KIND), words, image_seq_len=4, chat_template=template
    )
    whole.save_pretrained(tmp_path)
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert not (tmp_path / "preprocessor_config.json").exists()
    assert read_architecture(read_files(tmp_path)) == read_architecture(read_files(folder))
    text, shown = "see <image> and <image>what?", [cases.png((40, 90)), cases.png((200, 7))]
    opened = [[Image.open(io.BytesIO(data)) for data in shown]]
    assert (
        whole(text=[text], images=opened)["input_ids"]
        == cases.their_inputs(KIND, [text], [shown])[1]
    )


@pytest.mark.parity
def test_tower_and_bridge_equal_the_originals(ours):
    backbone, weights, _ = ours
    net, cfg = cases.make_net(KIND).model, backbone.cfg
    rng = np.random.default_rng(cases.SEED)
    image = rng.normal(size=(2, cases.SIDE, cases.SIDE, 3)).astype(np.float32)
    theirs = net.vision_model(pixel_values=channels_first(image)).last_hidden_state
    states = jax.jit(tower(cfg).apply)({"params": weights["vision"]}, image)
    close(states, theirs, 1e-5)
    features = jax.jit(bridge(cfg).apply)({"params": weights["projector"]}, states)
    close(features, net.connector(theirs), 1e-5)


@pytest.mark.parity
def test_the_model_equals_the_original(ours, batch):
    backbone, weights, tokenizer = ours
    assert max(cases.difference(KIND, backbone, weights, batch, tokenizer)) < 1e-4


MUTATIONS = {
    "the tower's activation": lambda cfg: replace(
        cfg, vision=replace(cfg.vision, activation=Activation.QUICK_GELU)
    ),
    "the tower's norms": lambda cfg: replace(cfg, vision=replace(cfg.vision, norm_eps=0.1)),
    "the decoder's positions": lambda cfg: replace(
        cfg, decoder=replace(cfg.decoder, rope_base=100.0)
    ),
    "the decoder's norms": lambda cfg: replace(cfg, decoder=replace(cfg.decoder, norm_eps=0.1)),
}


@pytest.mark.parity
@pytest.mark.parametrize("part", [*MUTATIONS, "the order of patches", "positions", "tile order"])
def test_a_wrong_part_is_noticed(ours, batch, part):
    backbone, weights, tokenizer = ours
    if part in MUTATIONS:
        backbone = Backbone(MUTATIONS[part](backbone.cfg))
    elif part == "the order of patches":
        kernel = rearrange(
            weights["projector"]["linear"]["kernel"], "(i j w) d -> (j i w) d", i=3, j=3
        )
        weights = weights | {"projector": {"linear": {"kernel": kernel}}}
    elif part == "positions":
        position = weights["vision"]["position"][::-1]
        weights = weights | {"vision": weights["vision"] | {"position": position}}
    else:
        n, seen = backbone.cfg.vision_n, batch.role == Role.VISION
        batch = batch.replace(place=np.where(seen, (batch.place + n) % (9 * n), 0))
    assert max(cases.difference(KIND, backbone, weights, batch, tokenizer)) > 1e-3


def test_generation_with_a_cache_equals_generation_without(ours):
    cases.check_generation(ours)


@pytest.mark.parity
def test_full_size():
    backbone = cases.check_full_size(KIND, IDEFICS3_8B, 1456, 17, 169)
    assert backbone.cfg.edit_layer == 21 and not backbone.cfg.decoder.tied_head


@pytest.mark.parity
def test_patches_that_the_original_numbers_otherwise_are_known():
    import torch

    def is_in_order(n: int) -> bool:
        ends = torch.arange(1 / n, 1.0, 1 / n)
        at = torch.arange(n, dtype=torch.float32) * (1.0 / torch.tensor([n]))
        found = torch.bucketize(torch.clamp(at, max=1 - 1e-6), ends, right=True)
        return found.tolist() == list(range(n))

    known = range(1, idefics3.SIDE_MOST + 1)
    assert {n for n in known if not is_in_order(n)} == idefics3.MISNUMBERED


@pytest.mark.parity
def test_a_checkpoint_is_converted_by_its_own_config_and_opened(folder, tmp_path):
    command = ["convert", "--from", str(folder), "--to", str(tmp_path / "it")]
    assert main([*command, "--dtype", "float32"]) in (0, None)
    model = open_model(tmp_path / "it")
    assert model.backbone.cfg == read_architecture(read_files(folder))
    data = cases.png((40, 90))
    (logits,) = model.logits([(data, "what is this?", "a fox")])
    batch = model.batch([model.example(data, "what is this?", "a fox")])
    _, theirs = cases.their_states(KIND, batch, model.tokenizer, 0)
    at = np.flatnonzero(batch.role[0] == Role.ANSWER) - 1
    close(logits, theirs[0, at], 1e-4)
    assert open_model(tmp_path / "it", chat=True).chat.after.endswith("Assistant:")


WRONG = {  # the file, what is changed in it, and what the error has to name
    ("config.json", "model_type"): ("idefics9", "model_type 'idefics9'|model_type idefics9"),
    ("config.json", "scale_factor"): (4, "scale_factor 4"),
    ("config.json", "vision_config.hidden_act"): ("mish", "vision_config.hidden_act is mish"),
    ("config.json", "vision_config.hidden_size"): ("24", "vision_config.hidden_size is 24"),
    ("config.json", "vision_config.patch_size"): (6, "patch_size 6"),
    ("config.json", "vision_config"): ([], "vision_config is"),
    ("config.json", "text_config.model_type"): ("mistral", "text_config.model_type is mistral"),
    ("config.json", "text_config.attention_bias"): (True, "text_config.attention_bias is True"),
    ("config.json", "text_config.hidden_act"): ("gelu", "text_config.hidden_act is gelu"),
    ("config.json", "text_config.rope_scaling"): ({"rope_type": "llama3"}, "rope_type is llama3"),
    ("config.json", "quantization_config"): ({"bits": 4}, "quantization_config"),
    ("preprocessor_config.json", "image_processor_type"): ("XImageProcessor", "XImageProcessor"),
    ("preprocessor_config.json", "do_pad"): (False, "do_pad is False"),
    ("preprocessor_config.json", "rescale_factor"): (1.0, "rescale_factor is 1.0"),
    ("preprocessor_config.json", "max_image_size.longest_edge"): (52, "longest_edge is 52"),
    ("preprocessor_config.json", "size"): ({"height": 9, "width": 9}, "size"),
    ("preprocessor_config.json", "image_mean"): ([0.5], "image_mean is"),
    ("preprocessor_config.json", "do_image_splitting"): ("yes", "do_image_splitting 'yes'"),
    ("processor_config.json", "image_seq_len"): (9, "image_seq_len is 9, not 4"),
    ("generation_config.json", "eos_token_id"): ("x", "eos_token_id is x"),
}


@pytest.mark.parametrize(("file", "field"), WRONG)
def test_a_field_that_is_not_supported_is_named_in_one_line(folder, file, field):
    files, (value, named) = read_files(folder), WRONG[file, field]
    files = json.loads(json.dumps(files))
    *outer, last = field.split(".")
    inner = files[file]
    for name in outer:
        inner = inner[name]
    inner[last] = value
    with pytest.raises(ValueError, match=named) as error:
        read_architecture(files)
    assert "\n" not in str(error.value)
