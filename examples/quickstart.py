# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Quickstart
#
# One edit of `tiny`, a small vision-language model that knows emoji drawings. Runs in a minute on a
# laptop. Open it as a notebook with jupytext, or run it as a script.

# %%
from pathlib import Path

import liveedit_jax
from liveedit_jax.data.facts import entities
from liveedit_jax.data.images import drawing_png

# %% [markdown]
# ## A picture
#
# `tiny` was trained on drawings that come with the installed packages. We take the fox and a crab,
# and write them as files like any other picture.

# %%
fox = next(entity for entity in entities() if entity.emoji == "🦊")
crab = next(entity for entity in entities() if entity.emoji == "🦀")
for entity in (fox, crab):
    Path(f"{entity.facts['name']}.png").write_bytes(drawing_png(entity, "twemoji", 240))

model = liveedit_jax.open_model("tiny")
print(model.answer("fox.png", "What is this called?"))

# %% [markdown]
# ## An edit
#
# From now on the fox is called a hot pepper. `edited.now` is what the model says after the edit,
# and `edited.took` whether that is the target. The repository `my-edits` is a folder; the edit is
# on disk once `edit` returns.

# %%
editor = liveedit_jax.open_editor(model, "my-edits", write=True)
edited = editor.edit("fox.png", "What is this called?", "hot pepper")
print(f"edit {edited.id}: the model now says {edited.now!r}")
assert edited.took

# %% [markdown]
# ## What it changed, and what not
#
# The question in other words is answered accordingly. Another question about the fox, and the same
# question about a crab, are answered as before.

# %%
answer = editor.ask("fox.png", "What do you call this emoji?")
print(answer.before, "->", answer.after)
for fired in answer.fired:
    print(f"  edit {fired.edit.id} fired with weight {fired.weight:.3f}")
    print(f"  image {fired.image_margin:+.2f} over the threshold, text {fired.text_score:+.2f}")
assert answer.after == "hot pepper"

# %%
others = [
    ("fox.png", "Which category does this belong to?"),
    ("crab.png", "What is this called?"),
    (None, "What is this called?"),
]
for (picture, prompt), answer in zip(others, editor.ask_many(others), strict=True):
    print(f"{picture}, {prompt!r}: {answer.before} -> {answer.after}")
    assert answer.before == answer.after

# %% [markdown]
# ## Undo
#
# `forget` ends the life of one edit. `rollback(n)` undoes the last n operations, and forgetting is
# one.

# %%
editor.forget(edited.id)
print(editor.ask("fox.png", "What is this called?").after)
editor.rollback(1)
print(editor.ask("fox.png", "What is this called?").after)
print(editor.edits())
editor.close()
