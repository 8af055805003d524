"""Benchmarks: each figure side by side with the alternative that it names, in one run on one machine."""
