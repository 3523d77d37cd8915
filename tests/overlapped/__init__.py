"""Tests of overlapped input and output."""
