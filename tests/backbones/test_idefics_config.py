"""Idefics' own configs: the model's at full size, the processor's, and what is refused by name."""

import io

import jax
import numpy as np
import pytest
from idefics_cases import LATENTS_N, SEED, SIDE, SMALL, VISION, in_torch
from jax.sharding import AbstractMesh
from PIL import Image

from liveedit_jax.backbone_config import ChatTemplate
from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones.idefics_convert import FAKE, IMAGE, config_from_hf, with_processor
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.images import preprocess
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.data.tokenizer import Tokenizer
from liveedit_jax.scaling.partition import backbone_shardings
from liveedit_jax.types import Role

FULL = {
    "model_type": "idefics",
    "additional_vocab_size": 2,
    "cross_layer_interval": 4,
    "cross_layer_activation_function": "swiglu",
    "max_position_embeddings": 2048,
    "qk_layer_norms": True,
    "use_resampler": True,
    "vision_config": {
        **{"embed_dim": 1280, "vision_model_name": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"},
    },
    "perceiver_config": {"qk_layer_norms_perceiver": True, "use_resampler": True},
    "word_embed_proj_dim": 4096,
    "torch_dtype": "float32",
}


@pytest.mark.parity
def test_the_full_size_has_the_parameters_of_the_original_and_all_are_placed():
    import torch
    from transformers import IdeficsConfig, IdeficsForVisionText2Text

    with torch.device("meta"):
        net = IdeficsForVisionText2Text(IdeficsConfig(**FULL))
    cfg = config_from_hf(FULL)
    shapes = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    ours_n = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    unused = sum(p.numel() for p in net.model.vision_model.post_layernorm.parameters())
    assert ours_n == sum(p.numel() for p in net.parameters()) - unused
    assert cfg.edit_layer == 21 and cfg.decoder.cross_n == 8 and cfg.vision_n == 64
    mesh = AbstractMesh((1, 2, 2, 1), ("data", "fsdp", "tensor", "expert"))
    spec = backbone_shardings(mesh, cfg, shapes)["cross"]["up"]["kernel"].spec
    assert tuple(spec) == (None, ("fsdp", "expert"), "tensor")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "idefics2"}, "model_type is 'idefics2', not 'idefics'"),
        ({"model_type": None}, "model_type is absent"),
        ({"use_resampler": False}, "use_resampler is False"),
        ({"head_dim": 6}, "head_dim is a field that is not known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is a field that is not known"),
        ({"hidden_act": "swish2"}, "hidden_act is 'swish2', which is not known"),
        ({"hidden_size": "32"}, "hidden_size is '32', not of the type of 4096"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0: above 0"),
        ({"num_attention_heads": 5}, "hidden_size: 32 is no multiple of 5"),
        ({"cross_layer_interval": 3}, "num_hidden_layers: 8 is no multiple of 3"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters.factor"),
        ({"alpha_type": "matrix"}, "alpha_type is 'matrix'"),
        ({"eos_token_id": [2, 3]}, r"eos_token_id is \[2, 3\]"),
        ({"vision_config": 3}, "vision_config is no JSON object"),
        ({"vision_config": {"embed_dim": 36}}, "vision_config.embed_dim: 36 is no multiple of 16"),
        ({"vision_config": {"embed_dim": 64}}, "vision_config.embed_dim is 64, above hidden_size"),
        ({"vision_config": {"num_channels": 1}}, "vision_config.num_channels is 1, not 3"),
        ({"perceiver_config": {"depth": 3}}, "perceiver_config.depth is a field"),
    ],
)
def test_a_config_of_another_model_is_refused_by_the_field(change, says):
    with pytest.raises(ValueError, match=says):
        config_from_hf(SMALL | change)


PROCESSOR = {
    "image_num_channels": 3,
    "image_processor_type": "IdeficsImageProcessor",
    "image_size": SIDE,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "processor_class": "IdeficsProcessor",
}


def words():
    """A tokenizer like Llama's, with the additional tokens last, ours and transformers'."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "\u2581")
    inner.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    inner.train_from_iterator(
        [*map(chr, range(32, 127)), *["What is this? a red fox"] * 5], trainer
    )
    inner.add_special_tokens([FAKE, IMAGE])
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<unk>", additional_special_tokens=[FAKE, IMAGE],
    )  # fmt: skip
    plain = tokenizers.Tokenizer.from_str(inner.to_str())
    plain.encode_special_tokens = True
    return Tokenizer(plain, 0, 1, 2), theirs


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parity
def test_rows_and_pixels_equal_the_processor():
    from transformers import IdeficsProcessor
    from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

    tokenizer, their_words = words()
    named = {k: v for k, v in PROCESSOR.items() if k.startswith("image_") and "type" not in k}
    processor = IdeficsProcessor(IdeficsImageProcessorPil(**named), their_words)
    cfg = with_processor(config_from_hf(SMALL), PROCESSOR)
    layout = ChatTemplate(before=FAKE, between=IMAGE + FAKE)  # what the processor inserts
    for mode, size in [("RGB", (12, 12)), ("RGB", (37, 11)), ("L", (9, 50)), ("RGBA", (31, 30))]:
        shown = picture(mode, size)
        want = processor(text=[shown, "What is this?"], return_tensors="pt")
        file = io.BytesIO()
        shown.save(file, "PNG")
        made = preprocess(cfg, file.getvalue())
        theirs = np.moveaxis(want["pixel_values"][0, 0].numpy(), 0, -1)
        np.testing.assert_allclose(made.pixels, theirs, atol=1e-5)
        example = Example("What is this?", None, made.pixels)
        batch = tokenise(tokenizer, cfg, [example], LengthBudget(prompt_n=30, answer_n=4), layout)
        ids = batch.token[(batch.role != Role.PAD) & (batch.role != VISION)]
        assert ids.tolist() == want["input_ids"][0].tolist()
        assert (batch.role == VISION).sum() == LATENTS_N
        given, ours = want["image_attention_mask"][0, :, 0].numpy(), in_torch(batch)
        np.testing.assert_array_equal(ours["image_attention_mask"][0, :, 0].numpy(), given)


def test_the_processor_config_is_read():
    cfg = with_processor(config_from_hf(SMALL), PROCESSOR)
    assert cfg.vision.image_mean == (0.5, 0.4, 0.3) and cfg.vision.image_std == (0.2, 0.3, 0.4)
    for change, says in (
        ({"do_center_crop": True}, "do_center_crop is True, not False"),
        ({"image_size": 448}, "image_size is 448, not the tower's 12"),
        ({"size": {"height": 9, "width": 12}}, "size is .*, not the tower's 12"),
        ({"image_mean": [1, 2]}, "image_mean is .*, not three numbers"),
        ({"resample": 2}, "resample is 2, not 3"),
        ({"sharpen": True}, "sharpen is a field that is not known"),
    ):
        with pytest.raises(ValueError, match=says):
            with_processor(config_from_hf(SMALL), PROCESSOR | change)
