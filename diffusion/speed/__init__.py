"""Fewer and cheaper computations for the same pictures."""
