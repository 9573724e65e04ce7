"""The exercises, one file a notebook and named as it is, without its number; `slmkit.workshop` says how to add one."""
