"""gla.envs."""

if __name__ != "gla.envs":
    raise ImportError("this folder is the package gla.envs: write 'import gla.envs'")
