"""Learning curves: the study over nested training sets, the law fitted to it, and what that says of more labels."""
