"""Vision-language models: an eye, a projector and a decoder."""
