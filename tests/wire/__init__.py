"""Tests of the protocol machines: golden bytes, both ends joined, malformed input, fuzz."""
