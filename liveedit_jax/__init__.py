"""LiveEdit-JAX: lifelong knowledge editing of vision-language models (arXiv 2411.15432)."""

__version__ = "0.1.0"
