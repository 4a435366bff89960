"""The shape of the project: rooms, directions of imports, what is installed."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gla

PACKAGE = Path(gla.__file__).parent
ROOMS = ("gla", "gla.envs", "gla.agents", "gla.benchmarks")
FRONT_DOORS = {PACKAGE / "__init__.py", PACKAGE / "cli.py"}
SIMULATORS = {"gymnax", "brax", "mujoco", "dm_control", "shimmy", "gymnasium"}


def room_folder(room: str) -> Path:
    module = __import__(room, fromlist=["__file__"])
    return Path(module.__file__).parent


def sources():
    for room in ROOMS:
        folder = room_folder(room)
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder).parts
            if room == "gla" and inside[0] in ("envs", "agents", "benchmarks"):
                continue
            yield room, path


def imported(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str | None:
    if module.split(".")[0] != "gla":
        return None
    prefix = ".".join(module.split(".")[:2])
    return prefix if prefix in ROOMS else "gla"


def test_imports_go_one_way():
    wrong = []
    for room, path in sources():
        if path in FRONT_DOORS:
            continue
        for module in imported(path):
            target = room_of(module)
            if target and ROOMS.index(target) > ROOMS.index(room):
                wrong.append(f"{path.name} in {room} imports {module}")
    assert not wrong


def test_the_core_knows_no_simulator():
    wrong = [
        f"{path.name} imports {module}"
        for room, path in sources()
        if room == "gla" and path not in FRONT_DOORS
        for module in imported(path)
        if module.split(".")[0] in SIMULATORS
    ]
    assert not wrong


@pytest.mark.parametrize("room", ["envs", "agents", "benchmarks"])
def test_rooms_refuse_their_bare_name(room, tmp_path):
    source = room_folder(f"gla.{room}")
    (tmp_path / room).symlink_to(source)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {room}"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    assert f"write 'import gla.{room}'" in result.stderr


def test_importing_gla_loads_neither_jax_nor_a_simulator():
    code = (
        "import gla, sys; "
        "print(sorted({'jax', 'flax', 'gymnax', 'mujoco', 'dm_control'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
    assert result.stderr == ""


def test_installed_files_have_one_top_level_name():
    files = importlib.metadata.files("gla") or []
    names = {str(file).split("/")[0] for file in files if not str(file).startswith("..")}
    if any("editable" in name for name in names):
        pytest.skip("gla is installed in editable mode; the wheel is checked in CI")
    assert {name for name in names if not name.endswith(".dist-info")} == {"gla"}
    assert any(str(file) == "gla/py.typed" for file in files)
    assert any(str(file) == "gla/envs/references.json" for file in files)
    assert any(str(file).startswith("gla/benchmarks/templates/") for file in files)


def test_wheel_has_one_top_level_name():
    wheel = os.environ.get("GLA_WHEEL")
    if not wheel:
        pytest.skip("set GLA_WHEEL to a built wheel (CI does)")
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"gla"}


def test_version_agrees_with_the_installed_metadata():
    assert importlib.metadata.version("gla") == gla.__version__
