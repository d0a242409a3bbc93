"""Speech: Whisper and what it needs to turn recordings into text.

``audio.transcribe`` is what most people call. Nothing is imported here, so that a command line can look up a language
(``audio.languages``) without loading PyTorch.
"""
