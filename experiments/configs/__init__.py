"""The paper's settings for every public backbone and benchmark; each file says its commands."""
