"""Ahead-of-time compilation for TPU pods and multi-GPU machines, without having one."""
