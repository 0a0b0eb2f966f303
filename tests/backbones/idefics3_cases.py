"""A small random Idefics3 or SmolVLM as its own folder, and pictures, for both families' tests."""

import io
import json
import os
from functools import lru_cache, partial
from pathlib import Path

import jax
import numpy as np
import tokenizers
from jax.sharding import AbstractMesh
from PIL import Image
from torch_parity import shaken

from liveedit_jax.backbones import Backbone
from liveedit_jax.backbones import weights as checkpoint
from liveedit_jax.backbones.generation import generate
from liveedit_jax.backbones.idefics3_pictures import HEADS, TEMPLATE
from liveedit_jax.backbones.published import read_files
from liveedit_jax.backbones.registry import read_architecture
from liveedit_jax.config import LengthBudget
from liveedit_jax.data.images import preprocess, square_layout
from liveedit_jax.data.layout import tokens_n
from liveedit_jax.data.tokenise import Example, tokenise
from liveedit_jax.data.tokenizer import Tokenizer, train_tokenizer
from liveedit_jax.scaling.partition import backbone_shardings
from liveedit_jax.types import Batch, Role

SEED = int(os.environ.get("LIVEEDIT_PARITY_SEED", "0"))
SIDE, PATCH, FACTOR, EDGE = 26, 4, 3, 90  # six patches a side, and two pixels that no patch has
BUDGET = LengthBudget(prompt_n=20, answer_n=6)
SPECIALS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
SIZES = [(40, 90), (90, 40), (33, 33), (200, 7), (64, 61), (5, 3)]  # height, width
CLASSES = {
    "idefics3": ("Idefics3Config", "Idefics3ForConditionalGeneration", "Idefics3"),
    "smolvlm": ("SmolVLMConfig", "SmolVLMForConditionalGeneration", "SmolVLM"),
}
TEXT = dict(
    model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, rope_theta=5000.0,
    rms_norm_eps=1e-5, max_position_embeddings=1024,
)  # fmt: skip
VISION = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2,
    image_size=SIDE, patch_size=PATCH,
)  # fmt: skip


def make_tokenizer(kind: str) -> tokenizers.Tokenizer:
    """SmolVLM's knows rows and columns as special tokens; Idefics3's spells them, and puts BOS."""
    texts = ["what is this? a red fox, <row_1_col_2><global-img>", "User: Assistant:"] * 4
    inner = train_tokenizer(texts, 330).inner
    inner.encode_special_tokens = False
    inner.add_special_tokens([*HEADS, *SPECIALS])
    if kind == "smolvlm":
        rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
        inner.add_special_tokens(["<global-img>", *rows])
        return inner
    begin = HEADS[1]
    inner.post_processor = tokenizers.processors.Sequence(
        [
            tokenizers.processors.ByteLevel(trim_offsets=False),
            tokenizers.processors.TemplateProcessing(
                single=f"{begin} $A", pair=f"{begin} $A {begin} $B",
                special_tokens=[(begin, inner.token_to_id(begin))],
            ),
        ]
    )  # fmt: skip
    return inner


def processor_config(kind: str) -> dict:
    name = CLASSES[kind][2]
    return {
        "image_processor_type": f"{name}ImageProcessor", "processor_class": f"{name}Processor",
        "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True,
        "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.4, 0.5],
        "image_std": [0.5, 0.5, 0.3], "max_image_size": {"longest_edge": SIDE},
        "resample": 1, "rescale_factor": 1 / 255, "size": {"longest_edge": EDGE},
    }  # fmt: skip


def their_config(kind: str, inner: tokenizers.Tokenizer, **changes):
    import transformers

    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = {**TEXT, "vocab_size": inner.get_vocab_size(), **ids}
    return getattr(transformers, CLASSES[kind][0])(
        vision_config=VISION, text_config=text, scale_factor=FACTOR, pad_token_id=0,
        image_token_id=inner.token_to_id("<image>"), **changes,
    )  # fmt: skip


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content))


@lru_cache
def make_net(kind: str):
    """The original with random weights, away from their initial values."""
    import torch
    import transformers

    torch.manual_seed(SEED)
    theirs = their_config(kind, make_tokenizer(kind))
    return shaken(getattr(transformers, CLASSES[kind][1])(theirs), SEED)


def make_folder(kind: str, folder: Path) -> Path:
    """Write the original as a checkpoint's folder."""
    net, inner = make_net(kind), make_tokenizer(kind)
    net.save_pretrained(folder)
    inner.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(folder / "preprocessor_config.json", processor_config(kind))
    write_json(folder / "processor_config.json", {"image_seq_len": (SIDE // PATCH // FACTOR) ** 2})
    head = HEADS[kind == "idefics3"]
    write_json(folder / "chat_template.json", {"chat_template": head + TEMPLATE})
    ids = {"bos_token_id": 1, "eos_token_id": inner.token_to_id("<end_of_utterance>")}
    write_json(folder / "generation_config.json", ids | {"pad_token_id": 0})
    return folder


def open_ours(kind: str, folder: Path):
    """Our backbone, its weights from the original's, and the tokenizer."""
    cfg = read_architecture(read_files(folder))
    state = {name: value.detach().numpy() for name, value in make_net(kind).state_dict().items()}
    inner = make_tokenizer(kind)
    inner.encode_special_tokens = True
    tokenizer = Tokenizer(inner, cfg.pad_id, cfg.bos_id, cfg.eos_id)
    return Backbone(cfg), checkpoint.convert_weights(cfg, state), tokenizer


def png(size, mode="RGB", seed=SEED) -> bytes:
    """A smooth random picture of (height, width) as PNG."""
    rng, out = np.random.default_rng(seed), io.BytesIO()
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, len(mode)), np.uint8).squeeze())
    assert coarse.mode == mode
    coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(out, "png")
    return out.getvalue()


def their_processor(kind: str, **changes):
    """The original image processor, with PIL for its pixels."""
    from transformers import models

    name = CLASSES[kind][2]
    config = processor_config(kind) | changes
    for other in ("image_processor_type", "processor_class"):
        config.pop(other)
    module = getattr(getattr(models, kind), f"image_processing_pil_{kind}")
    return getattr(module, f"{name}ImageProcessorPil")(**config, return_row_col_info=True)


def their_inputs(kind: str, texts: list[str], pictures: list[list[bytes]], chat=False):
    """The original's pixels, ids and attention mask of texts with <image> in them."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    inner, processor = make_tokenizer(kind), their_processor(kind)
    opened = [[Image.open(io.BytesIO(one)) for one in row] for row in pictures]
    shown = [row for row in opened if row]
    made = processor(shown, return_tensors="np") if shown else None
    seen_n = (SIDE // PATCH // FACTOR) ** 2
    ids, at = [], 0
    for text, row in zip(texts, opened, strict=True):
        pieces = text.split("<image>")
        whole = pieces[0]
        for k, piece in enumerate(pieces[1:]):
            rows, columns = made["rows"][at][k], made["cols"][at][k]
            tokens = ("<fake_token_around_image>", "<image>", "<global-img>")
            whole += get_image_prompt_string(rows, columns, seen_n, *tokens) + piece
        at += bool(row)
        ids.append(inner.encode(whole, add_special_tokens=not chat).ids)
    return made, ids


def our_batch(backbone, tokenizer, questions, chat=None):
    """Our rows of (prompt, target, picture or None)."""
    cfg = backbone.cfg
    examples = [
        Example(prompt, target, *(preprocess(cfg, data) if data else (None,)))
        for prompt, target, data in questions
    ]
    return tokenise(tokenizer, cfg, examples, BUDGET, chat)


def with_image_ids(batch, tokenizer) -> list[list[int]]:
    """Our rows as the original has them: without padding, with <image> at VISION."""
    image = tokenizer.inner.token_to_id("<image>")
    return [
        np.where(role == Role.VISION, image, token)[role != Role.PAD].tolist()
        for token, role in zip(batch.token, batch.role, strict=True)
    ]


def questions() -> list[tuple[str, str, bytes | None]]:
    """Rows of unequal length: pictures of several shapes, and one without a picture."""
    shown = [("what is this?", "a fox", png(size)) for size in SIZES]
    return [*shown, ("what?", "a red fox", None)]


def check_processor(kind: str, ours, chat: bool) -> None:
    """Pixel values, and the number and order of all tokens, equal the original processor's."""
    backbone, _, tokenizer = ours
    asked = questions()
    head, tail = (HEADS[kind == "idefics3"] + "User:", "<end_of_utterance>\nAssistant:")
    texts = [
        (head if chat else "") + ("<image>" if data else " " * chat) + prompt
        + (tail if chat else "") + " " + target
        for prompt, target, data in asked
    ]  # fmt: skip
    batch = our_batch(backbone, tokenizer, asked, backbone.cfg.chat if chat else None)
    made, ids = their_inputs(kind, texts, [[data] if data else [] for *_, data in asked], chat)
    assert with_image_ids(batch, tokenizer) == ids
    for b in range(len(SIZES)):
        tiles_n = made["rows"][b][0] * made["cols"][b][0] + 1
        want = np.zeros_like(batch.image[b])
        want[:tiles_n] = np.moveaxis(made["pixel_values"][b][:tiles_n], 1, -1)
        np.testing.assert_allclose(batch.image[b], want, atol=1e-6)
        role, place = batch.role[b], batch.place[b]
        assert place[role == Role.VISION].tolist() == list(range(tiles_n * backbone.cfg.vision_n))
        last = np.flatnonzero(role == Role.VISION).max()
        assert set(role[: last + 1]) == {Role.PRE, Role.VISION}
        assert set(role[last + 1 :]) == {Role.PROMPT, Role.ANSWER, Role.PAD}


def their_states(kind: str, batch, tokenizer, layer: int):
    """The original's states after a layer, and its logits, on our rows."""
    import torch

    ids = np.array(batch.token, np.int64)
    ids[batch.role == Role.VISION] = tokenizer.inner.token_to_id("<image>")
    has_image = (batch.role == Role.VISION).any(1)
    pixels = np.moveaxis(batch.image[has_image], -1, 2)
    out = make_net(kind)(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor((batch.role != Role.PAD).astype(np.int64)),
        pixel_values=torch.tensor(pixels.copy()),
        output_hidden_states=True,
    )
    return out.hidden_states[layer + 1].detach().numpy(), out.logits.detach().numpy()


@partial(jax.jit, static_argnums=0)
def our_states(backbone, weights, batch):
    """Our states after the edit layer, and our logits."""
    states = backbone.lower(weights, batch)
    return states, backbone.upper(weights, states, batch)


def difference(kind: str, backbone, weights, batch, tokenizer) -> tuple[float, float]:
    """The largest relative differences of edit-layer states and of logits, at real tokens."""
    theirs = their_states(kind, batch, tokenizer, backbone.cfg.edit_layer)
    ours, real = our_states(backbone, weights, batch), batch.role != Role.PAD
    return tuple(
        float(np.abs(np.asarray(a)[real] - b[real]).max() / np.abs(b[real]).max())
        for a, b in zip(ours, theirs, strict=True)
    )


def few_questions() -> list[tuple[str, str, bytes | None]]:
    """Three rows of unequal length, one of them without a picture."""
    every = questions()
    return [every[0], ("what is this red fox?", "a", every[3][2]), every[-1]]


def check_generation(ours) -> None:
    """Greedy generation with its cache equals generation without."""
    backbone, weights, tokenizer = ours
    asked = [(prompt, None, data) for prompt, _, data in few_questions()]
    batch = our_batch(backbone, tokenizer, asked)
    made = np.asarray(generate(backbone, weights, batch, 4))

    token, role = np.array(batch.token), np.array(batch.role)
    for b in range(len(token)):
        for i in range(4):
            n = int((role[b] != Role.PAD).sum())
            _, logits = our_states(backbone, weights, batch.replace(token=token, role=role))
            best = int(logits[b, n - 1].argmax())
            assert best == made[b, i]
            if best == backbone.cfg.eos_id:
                break
            token[b, n], role[b, n] = best, Role.ANSWER


def their_count(kind: str, config: dict) -> int:
    """Count the original's parameters, by shape."""
    import torch
    import transformers

    theirs = getattr(transformers, CLASSES[kind][0])(**config)
    with torch.device("meta"):
        net = getattr(transformers, CLASSES[kind][1])(theirs)
    return sum(p.numel() for p in net.parameters())


def check_full_size(kind: str, config: dict, edge: int, tiles_n: int, vision_n: int) -> Backbone:
    """Count a published model's parameters, place them, and lower the split by shape."""
    side = config["vision_config"]["image_size"]
    processor = {"size": {"longest_edge": edge}, "max_image_size": {"longest_edge": side}}
    files = {
        "config.json": {"model_type": kind, **config},
        "preprocessor_config.json": processor,
        "processor_config.json": {"image_seq_len": vision_n},
        "tokenizer.json": {"post_processor": None},
    }
    cfg = read_architecture(files)
    assert (cfg.tiles.tiles_n, cfg.vision_n) == (tiles_n, vision_n)
    assert cfg.edit_layer == 21 * cfg.decoder.layers_n // 32
    shapes = jax.eval_shape(Backbone(cfg).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == their_count(kind, config)
    mesh = AbstractMesh((1, 2, 2, 1), ("data", "fsdp", "tensor", "expert"))
    placed = backbone_shardings(mesh, cfg, shapes)
    weight = ("fsdp", "expert")
    assert tuple(placed["projector"]["linear"]["kernel"].spec) == (weight, "tensor")
    assert tuple(placed["vision"]["layers"]["fc2"]["kernel"].spec) == (None, "tensor", weight)
    t = tokens_n(square_layout(cfg)) + 20
    shape = jax.ShapeDtypeStruct
    rows = (shape((1, t), np.int32), shape((1, t), np.int8), shape((1, *cfg.image_shape), "f4"))
    batch, backbone = Batch(*rows, place=shape((1, t), np.int32)), Backbone(cfg)
    lowered = jax.eval_shape(lambda w, b: backbone.upper(w, backbone.lower(w, b), b), shapes, batch)
    assert lowered.shape == (1, t, cfg.decoder.vocab_n)
    return backbone
