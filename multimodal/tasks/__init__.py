"""Training of models that join images and texts."""
