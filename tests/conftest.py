"""What all tests share."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata

import pytest
from hypothesis import settings

# The first example of a shape compiles, so no deadline; the same examples on every machine.
settings.register_profile("gla", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("gla")

# Nearly all of the time of the tests is compilation of programs that then run for milliseconds.
# What follows is read when JAX is imported, and inherited by processes that tests start.

# Large programs that several tests or processes compile are compiled once. One folder serves all
# workers of pytest-xdist: they inherit the variable.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_own_cache = _CACHE not in os.environ
if _own_cache:
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="gla-test-programs-")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# LLVM without optimisations: a third to a half of the time. Tests that run for minutes turn it off.
_QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"
os.environ.setdefault(_QUICK, "1")

# Half of the rest in jaxlib 0.10; other versions refuse to start with a flag that they don't know.
if metadata.version("jaxlib").startswith("0.10."):
    _flag = "--xla_cpu_use_fusion_emitters=false"
    if _flag not in (_flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{_flags} {_flag}".strip()


def _can_draw_without_display() -> bool:
    """Whether MuJoCo finds an OpenGL through EGL; tried in another process, as it may abort."""
    code = "import mujoco; mujoco.GLContext(8, 8).make_current()"
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


if (
    sys.platform.startswith("linux")
    and not any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"))
    and _can_draw_without_display()
):
    os.environ["MUJOCO_GL"] = "egl"


def pytest_sessionfinish(session):
    """Drop the compiled programs, once every worker is done."""
    if _own_cache and not hasattr(session.config, "workerinput"):
        shutil.rmtree(os.environ[_CACHE], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _compiler(request):
    """Optimise programs where tests learn; forget those of a module, which take gigabytes.

    A module that compares programs to the bit says `EXACT = True` and is compiled as users do.
    """
    import jax

    whole = "learning" in request.path.parts or getattr(request.module, "EXACT", False)
    before, variable = jax.config.read(_QUICK.lower()), os.environ[_QUICK]
    if whole:
        jax.config.update(_QUICK.lower(), False)
        os.environ[_QUICK] = "0"  # for processes that its tests start
    yield
    jax.config.update(_QUICK.lower(), before)
    os.environ[_QUICK] = variable
    jax.clear_caches()
    gc.collect()
