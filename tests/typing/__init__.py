"""Programs that exist to be type-checked: what a user writes, and in `wrong.py` what a user must not get away with.

`make check` reads them with the rest of the tests; `tests/test_typing.py` holds both checkers to the marked mistakes.
None of them is run.
"""
