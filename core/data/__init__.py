"""Data on its way to a model: what is read, in which order, and how it is checked. Knows nothing of trainers."""
