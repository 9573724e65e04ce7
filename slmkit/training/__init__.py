"""What all trainings share, on labels and on dialogues: the ways to tune, what is taken from the rows, forgetting."""
