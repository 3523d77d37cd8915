"""Behaviour recorded elsewhere, which apcrt has to repeat."""
