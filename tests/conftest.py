"""What all tests share."""

from hypothesis import settings

# The first example of a shape compiles, so no deadline; the same examples on every machine.
settings.register_profile("gla", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("gla")
