"""Models of transformers for our configs, with random weights, to compare ours with."""

from __future__ import annotations

from liveedit_jax.backbone_config import BackboneConfig, LlamaConfig


def llama_config(cfg: LlamaConfig):
    """Return transformers' config of a Llama decoder."""
    from transformers import LlamaConfig as Theirs

    return Theirs(
        vocab_size=cfg.vocab_n, hidden_size=cfg.width, intermediate_size=cfg.mlp_width,
        num_hidden_layers=cfg.layers_n, num_attention_heads=cfg.heads_n,
        num_key_value_heads=cfg.kv_heads_n, head_dim=cfg.head_width,
        rms_norm_eps=cfg.norm_eps, tie_word_embeddings=cfg.tied_head,
        rope_parameters={"rope_type": "default", "rope_theta": cfg.rope_base},
    )  # fmt: skip


def torch_llama(cfg: LlamaConfig):
    """Build a Llama decoder."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(llama_config(cfg)).eval()


def torch_llava(cfg: BackboneConfig, image_id: int):
    """Build LLaVA-1.5: a CLIP tower, the two-layer projector and a Llama decoder."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = cfg.vision
    theirs = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=vision.width, intermediate_size=vision.mlp_width,
            num_hidden_layers=vision.layers_n, num_attention_heads=vision.heads_n,
            image_size=vision.image_size, patch_size=vision.patch_size,
        ).to_dict(),
        text_config=llama_config(cfg.decoder).to_dict(), image_token_index=image_id,
        vision_feature_layer=vision.feature_layer, vision_feature_select_strategy="default",
        tie_word_embeddings=cfg.decoder.tied_head,
    )  # fmt: skip
    return LlavaForConditionalGeneration(theirs).eval()
