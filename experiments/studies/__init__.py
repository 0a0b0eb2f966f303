"""Studies: a base model's knowledge, edits of photographs, edit layers, and narrow storage."""
