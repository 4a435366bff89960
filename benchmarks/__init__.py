"""gla.benchmarks."""

if __name__ != "gla.benchmarks":
    raise ImportError("this folder is the package gla.benchmarks: write 'import gla.benchmarks'")
