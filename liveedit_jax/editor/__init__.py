"""The paper's method: extractors, generators, repository, routing, losses, and LiveEdit."""
