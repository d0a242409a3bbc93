"""Training of models that hear."""
