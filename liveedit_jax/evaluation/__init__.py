"""The lifelong protocol, its metrics, and the report of a run."""
