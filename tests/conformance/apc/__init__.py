"""Scenarios about APCs and alertable waits, with traces recorded from Win32 programs; run by `python -m` this package.

`scenario` reads the language, `clock` is a clock that only the runner moves, `world` does the directives and collects
the trace, `steps` does what threads are told, in either face, and `runner` compares.
"""
