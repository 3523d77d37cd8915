"""Asynchronous procedure calls and asynchronous DCE/RPC pipes for multi-threaded Python programs."""
