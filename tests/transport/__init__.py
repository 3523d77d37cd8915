"""Tests of the transport contract, of the registry, and of each transport's own."""
