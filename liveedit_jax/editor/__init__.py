"""The paper: attention, extractors, generators, repository, routing, losses, and LiveEdit."""
