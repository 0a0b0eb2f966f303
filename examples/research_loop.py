# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The researcher's loop
#
# Draw edits, measure an editor on them, look inside an answer, change something, measure again.
# Everything here is small enough for a laptop; the numbers show how the loop works and nothing
# else.

# %%
import jax
import numpy as np

import liveedit_jax
from liveedit_jax.data import edit_stream

model = liveedit_jax.open_model("tiny")

# %% [markdown]
# ## Edits
#
# A benchmark is a list of records. These are MojiEdit's; for rows of your own you make `Record`s.
# Choose on `dev`, report on `eval`.

# %%
records = list(edit_stream("dev", seed=0, n=4))
for record in records[:3]:
    print(f"{record.entity}  {record.src}  {record.pred!r} -> {record.alt!r}")

# %% [markdown]
# ## Measure
#
# All probes of all records, after 1 edit and after 4 in a row, for LiveEdit and for an editor that
# fine-tunes one layer. `results` is what `results.json` of an evaluation holds.

# %%
for name in ("liveedit", "ft_l"):
    results = liveedit_jax.evaluate(name, model, records, marks=(1, 4))
    for entry in results["marks"]:
        shown = {key: entry[key] for key in ("reliability", "image_locality", "average")}
        figures = "  ".join(f"{key} {value:.1f}" for key, value in shown.items())
        print(f"{name:9} {entry['edits']} edits: {figures}")

# %% [markdown]
# ## Look inside
#
# `logits` gives, for each (picture, prompt, answer), the logits f32[A, V] that predict the answer's
# tokens: under the model alone, and with the edits. `answer_ids` are those tokens.

# %%
record = records[0]
rows = [(record.image, record.src, record.alt)]
with liveedit_jax.open_editor(model, "loop-edits", write=True) as editor:
    editor.edit(record.image, record.src, record.alt)
    before, after = model.logits(rows)[0], editor.logits(rows)[0]
    answer = editor.ask(record.image, record.rephrase)
print(answer.before, "->", answer.after, [round(each.weight, 3) for each in answer.fired])

ids = model.answer_ids(rows)[0]
for name, logits in (("before", before), ("after", after)):
    probability = jax.nn.softmax(logits)[np.arange(len(ids)), ids]
    print(f"{name:6}", [round(float(p), 3) for p in probability])

# %% [markdown]
# ## Change something, and measure again
#
# Two training steps change little. A training that is worth something takes 2,000 steps and more
# records than these (`python -m experiments.train_editor`, which also resumes where it was killed).

# %%
taught = list(edit_stream("editor_train", seed=0, n=16))
tuned = liveedit_jax.train_editor(model, taught, steps_n=2)
results = liveedit_jax.evaluate("liveedit", tuned, records, marks=(4,))
print(f"after two steps: average {results['marks'][-1]['average']:.1f}")
