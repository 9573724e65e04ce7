"""The parts of the mlx backend: weights on disk, the model, training, architectures mlx-lm lacks or misreads."""
