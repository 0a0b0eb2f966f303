"""References: the method as usually written in PyTorch, and arrays of the released code."""
