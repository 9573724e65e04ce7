"""slmkit beside its peers on the same work in one run, and its quality on real data; nothing here is installed."""
