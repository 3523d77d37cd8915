"""Measurements, not tests: `make bench` runs the `main()` of every module here that is called `bench_*`."""
