"""Tests of threads, queues and alertable waits."""
