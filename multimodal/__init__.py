"""Models that join senses: CLIP, SigLIP, Perceiver, vision-language models."""
