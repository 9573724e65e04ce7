"""The command line by subject: one module for each group of commands; `slmkit/__main__.py` puts them together."""
