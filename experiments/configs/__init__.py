"""The paper's settings for every public backbone and benchmark; each file states its commands."""
