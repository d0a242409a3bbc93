"""What a diffusion model can be trained for: LightningModules, and the data they take."""
