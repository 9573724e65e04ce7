"""The parts of the mlx backend: weights on disk, the loaded model, LoRA training, architectures mlx-lm lacks."""
