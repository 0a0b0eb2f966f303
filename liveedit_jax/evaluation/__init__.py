"""The lifelong evaluation protocol: cases, metrics, the engine, and the files of a run."""
