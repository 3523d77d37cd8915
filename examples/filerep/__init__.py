"""A directory replicated through asynchronous pipes.

`cli` says how to run it, `client` and `server` how it works.
"""
