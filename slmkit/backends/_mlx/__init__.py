"""The parts of the mlx backend: weights on disk, the loaded model, training, architectures mlx-lm lacks or misreads."""
