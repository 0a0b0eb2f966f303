# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Your own LLaVA, from a folder
#
# From a folder as Hugging Face writes it to an edit. The checkpoint here is a very small LLaVA with
# random weights, made on the spot with transformers and PyTorch, so the answers are gibberish; the
# steps are those for a real one.

# %%
import json
from pathlib import Path

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

import liveedit_jax
from liveedit_jax.backbones.llava_convert import config_from_hf
from liveedit_jax.config import DatasetConfig, EditorConfig, EditorTrainConfig, LengthBudget, Preset
from liveedit_jax.data import edit_stream
from liveedit_jax.data.tokenizer import train_tokenizer
from liveedit_jax.model_io.exchange import convert_backbone
from liveedit_jax.presets import PRESETS

# %% [markdown]
# ## A checkpoint
#
# You have this already: a folder with `config.json`, safetensors and a tokenizer.

# %%
source = Path("my-checkpoint")
net = LlavaForConditionalGeneration(
    LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=12,
            patch_size=4,
        ).to_dict(),
        text_config=LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        ).to_dict(),
        image_token_index=299,
        vision_feature_layer=-2,
    )
)
net.save_pretrained(source)
words = train_tokenizer(["what is this? a red fox"] * 4, 290)
PreTrainedTokenizerFast(tokenizer_object=words.inner).save_pretrained(source)
print(sorted(file.name for file in source.iterdir()))

# %% [markdown]
# ## A preset for its size
#
# Published sizes have a name (`liveedit convert --model llava-1.5-7b`). Another size needs a preset
# of its own: which dataset's lengths, which backbone, which editor, and how the editor is trained.

# %%
cfg = config_from_hf(json.loads((source / "config.json").read_text()), edit_layer=1)
PRESETS["my-llava"] = Preset(
    dataset=DatasetConfig(name="mojiedit", budget=LengthBudget(prompt_n=96, answer_n=96)),
    backbone=cfg,
    editor=EditorConfig(module_width=16, heads_n=2, rank=2, queries_n=2),
    editor_train=EditorTrainConfig(batch_n=2, steps_n=2),
)

# %% [markdown]
# ## Convert it
#
# Every name of the checkpoint has a place in our tree, and every place a name; anything else is an
# error that lists them.

# %%
folder = Path("my-llava")
sha256 = convert_backbone(cfg, "my-llava", source, folder, dtype="float32")
print(sha256)

# %% [markdown]
# ## Train its editor
#
# A model without an editor answers, and its editor can be trained. Two steps only show that they
# run. An editor that was trained with the released PyTorch code can be imported instead
# (`liveedit import-editor`).

# %%
model = liveedit_jax.open_model(folder)
records = list(edit_stream("editor_train", seed=0, n=8))
print(repr(model.answer(records[0].image, records[0].src)))
model = liveedit_jax.train_editor(model, records, steps_n=2)

# %% [markdown]
# ## Edit it

# %%
record = records[0]
with liveedit_jax.open_editor(model, "my-llava-edits", write=True) as editor:
    edited = editor.edit(record.image, record.src, record.alt)
    print(f"edit {edited.id} is stored; the model now says {edited.now!r}")
    print([edit.id for edit in editor.edits()])
