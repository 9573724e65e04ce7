"""Scripts that build and check the project itself; none of them is part of what is installed."""
