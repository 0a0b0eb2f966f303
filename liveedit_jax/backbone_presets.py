"""The named backbones, with the values of their checkpoints."""

from __future__ import annotations

from dataclasses import replace

from liveedit_jax.backbone_config import (
    AnyresConfig,
    BackboneConfig,
    ChatTemplate,
    ClipConfig,
    EfficientNetConfig,
    EvaConfig,
    LlamaConfig,
    OptConfig,
    QFormerConfig,
    RematPolicy,
    ResizeMode,
)

TINY = BackboneConfig(
    vision=ClipConfig(
        image_size=60, patch_size=12, width=192, layers_n=5, heads_n=6, mlp_width=576
    ),
    decoder=LlamaConfig(
        vocab_n=1024,
        width=192,
        layers_n=7,
        heads_n=6,
        kv_heads_n=3,
        head_width=32,
        mlp_width=512,
        tied_head=True,
    ),
    edit_layer=2,
)
SMOL = BackboneConfig(
    vision=EfficientNetConfig(side=4),
    decoder=LlamaConfig(
        vocab_n=49152,
        width=576,
        layers_n=30,
        heads_n=9,
        kv_heads_n=3,
        head_width=64,
        mlp_width=1536,
        rope_base=100_000.0,
        tied_head=True,
    ),
    edit_layer=16,
    bos_id=0,  # <|endoftext|>, which begins plain text in its training
    eos_id=2,  # <|im_end|>
    pad_id=0,
    chat=ChatTemplate(
        before="<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\n",
        between="\n",
        after="<|im_end|>\n<|im_start|>assistant\n",
        bos=False,
    ),
)
LLAVA_1_5_7B = BackboneConfig(
    fit=ResizeMode.CROP,
    keep=RematPolicy.INPUTS,
    chat=ChatTemplate(before="USER: ", between="\n", after=" ASSISTANT:"),
)
LLAVA_1_5_13B = replace(
    LLAVA_1_5_7B,
    decoder=LlamaConfig(width=5120, layers_n=40, heads_n=40, kv_heads_n=40, mlp_width=13824),
    edit_layer=26,  # the same relative depth as 21 of 32 layers
)
LLAVA_NEXT_7B = replace(  # llava-v1.6-vicuna-7b
    LLAVA_1_5_7B,
    tiles=AnyresConfig(grids=((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))),
    chat=ChatTemplate(
        before="A chat between a curious human and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the human's questions. USER: ",
        between="\n",
        after=" ASSISTANT:",
    ),
)
BLIP2_OPT_2_7B = BackboneConfig(
    vision=EvaConfig(),
    bridge=QFormerConfig(),
    decoder=OptConfig(),
    bos_id=2,
    eos_id=50118,
    pad_id=1,
    image_first=True,
    after_image="",
    fit=ResizeMode.SQUASH,
    chat=ChatTemplate(between="Question: ", after=" Answer:"),
    keep=RematPolicy.INPUTS,
)
MINIGPT_4_VICUNA_7B = BackboneConfig(
    vision=EvaConfig(last_norm_eps=1e-5),
    bridge=QFormerConfig(),
    decoder=LlamaConfig(vocab_n=32000, norm_eps=1e-6),
    fit=ResizeMode.SQUASH,
    chat=ChatTemplate(
        before="Give the following image: <Img>ImageContent</Img>. You will be able to see the "
        "image once I provide it to you. Please answer my questions.###Human: <Img>",
        between="</Img> ",
        after="###Assistant:",
    ),
    keep=RematPolicy.INPUTS,
)

BACKBONES: dict[str, BackboneConfig] = {
    "tiny": TINY,
    "smol": SMOL,
    "llava-1.5-7b": LLAVA_1_5_7B,
    "llava-1.5-13b": LLAVA_1_5_13B,
    "llava-next-7b": LLAVA_NEXT_7B,
    "blip2-opt-2.7b": BLIP2_OPT_2_7B,
    "minigpt-4-vicuna-7b": MINIGPT_4_VICUNA_7B,
}
