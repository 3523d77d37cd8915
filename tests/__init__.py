"""The tests of apcrt, one module or package per room."""
