"""The guard against silent mistakes: what trains and saves without a complaint, and is wrong.

`watch` is called before and after a training, `checkup` looks at a saved folder; each check is one function in a table.
"""
