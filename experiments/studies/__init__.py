"""Studies: what a model knows, what an editor does to photographs, what storage costs."""
