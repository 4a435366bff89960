"""What all tests share."""

import os
import shutil
import tempfile

import pytest
from hypothesis import settings

# The first example of a shape compiles, so no deadline; the same examples on every machine.
settings.register_profile("gla", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("gla")

# Tests that stop and resume, some in processes of their own, compile the same large programs again
# and again. A cache that lives as long as the session saves minutes. Set before JAX is imported.
_cache = tempfile.mkdtemp(prefix="gla-test-programs-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")


@pytest.fixture(scope="session", autouse=True)
def _drop_compiled_programs():
    yield
    shutil.rmtree(_cache, ignore_errors=True)
