"""Image generation: DiT, its diffusion and flow processes, samplers."""
