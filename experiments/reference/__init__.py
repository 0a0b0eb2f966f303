"""The method as it is usually written in PyTorch, and arrays of the released code."""
