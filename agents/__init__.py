"""gla.agents."""

if __name__ != "gla.agents":
    raise ImportError("this folder is the package gla.agents: write 'import gla.agents'")
