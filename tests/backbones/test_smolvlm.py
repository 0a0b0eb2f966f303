"""SmolVLM (transformers' `smolvlm`): its processor, and parity with Hugging Face."""

import idefics3_cases as cases
import pytest

KIND = "smolvlm"
SIGLIP_BASE = {"hidden_size": 768, "num_attention_heads": 12, "image_size": 512, "patch_size": 16}
SIGLIP_SO = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
}  # fmt: skip


def smollm(layers_n: int, width: int, mlp_width: int, heads_n: int, kv_n: int, **more) -> dict:
    return {
        "model_type": "llama", "num_hidden_layers": layers_n, "hidden_size": width,
        "intermediate_size": mlp_width, "num_attention_heads": heads_n,
        "num_key_value_heads": kv_n, "head_dim": 64, "rms_norm_eps": 1e-5, **more,
    }  # fmt: skip


PUBLISHED = {  # sizes of the checkpoints: config, longest edge, tiles, tokens of a tile, parameters
    "256M": (
        {"vision_config": SIGLIP_BASE, "scale_factor": 4,
         "text_config": smollm(30, 576, 1536, 9, 3, vocab_size=49280, rope_theta=100000)},
        2048, 17, 64, 256_484_928,
    ),
    "500M": (
        {"vision_config": SIGLIP_BASE, "scale_factor": 4,
         "text_config": smollm(32, 960, 2560, 15, 5, vocab_size=49280, rope_theta=100000)},
        2048, 17, 64, 507_482_304,
    ),
    "2.2B": (
        {"vision_config": SIGLIP_SO, "scale_factor": 3,
         "text_config": smollm(24, 2048, 8192, 32, 32, vocab_size=49155, rope_theta=273768)},
        1536, 17, 81, None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.make_folder(KIND, tmp_path_factory.mktemp(KIND))


@pytest.fixture(scope="module")
def ours(folder):
    return cases.open_ours(KIND, folder)


@pytest.mark.parity
@pytest.mark.parametrize("chat", [False, True])
def test_pictures_and_rows_equal_the_processors(ours, chat):
    cases.check_processor(KIND, ours, chat)


@pytest.mark.parity
def test_the_model_equals_the_original(ours):
    backbone, weights, tokenizer = ours
    batch = cases.our_batch(backbone, tokenizer, cases.few_questions())
    assert max(cases.difference(KIND, backbone, weights, batch, tokenizer)) < 1e-4


def test_generation_with_a_cache_equals_generation_without(ours):
    cases.check_generation(ours)


@pytest.mark.parity
@pytest.mark.parametrize("size", PUBLISHED)
def test_full_size(size):
    config, edge, tiles_n, vision_n, known_n = PUBLISHED[size]
    cases.check_full_size(KIND, config, edge, tiles_n, vision_n)
    assert known_n in (None, cases.their_count(KIND, config))
