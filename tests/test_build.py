"""The build of the native engine: names, versions, and what is packaged."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PYPROJECT, ROOT

from sklearn_conv._engine import native_library as library
from sklearn_conv._engine.numpy_engine import OFFSET_TO_RANGE

NATIVE = ROOT / "native"
CMAKE = (ROOT / "CMakeLists.txt").read_text()
SCIKIT_BUILD = PYPROJECT["tool"]["scikit-build"]


def test_python_and_the_core_have_the_same_version_of_the_interface():
    header = (NATIVE / "core.h").read_text()
    version = re.search(r"#define SKLEARN_CONV_INTERFACE (\d+)", header).group(1)
    assert int(version) == library.INTERFACE


def test_structures_have_the_fields_of_the_header():
    header = re.sub(r"//.*", "", (NATIVE / "core.h").read_text())
    bodies = dict(re.findall(r"struct (\w+) {(.*?)};", header, re.DOTALL))
    for struct in vars(library).values():
        if isinstance(struct, type) and struct.__name__.endswith("Struct"):
            fields = [name for name, _ in struct._fields_]
            pattern = r"(?:(\w+)(?:\[\d+\])?|\(\*(\w+)\)\(.*\));"
            found = re.findall(pattern, bodies.pop(struct.__name__.removesuffix("Struct")))
            assert fields == ["".join(names) for names in found]
    assert {*bodies} == {"Run", "Piece", "Code"}


def test_constants_are_those_of_the_header():
    constants = dict(re.findall(r"int64_t ([A-Z_]+) = (\d+);", (NATIVE / "core.h").read_text()))
    assert constants == {
        "MAX_TILES": str(library.MAX_TILES),
        "MAX_OUTPUTS": str(library.MAX_OUTPUTS),
        "GROUP": str(library.GROUP),
        "STEP": str(library.STEP),
        "N_TERMS": str(library.N_TERMS),
        "OFFSET_TO_RANGE": str(OFFSET_TO_RANGE),
    }


def test_the_library_has_the_name_that_cmake_gives_it():
    assert f"add_library({Path(library.NAME).stem.removeprefix('lib')} SHARED" in CMAKE


def test_every_source_is_compiled():
    sources = {path.name for path in NATIVE.glob("*.cpp")}
    assert {name for name in sources if f"native/{name}" in CMAKE} == sources


def test_levels_of_the_core_are_those_of_cmake():
    core = (NATIVE / "core.cpp").read_text()
    compiled = re.findall(r"^ *add_level\((\w+)[ )]", CMAKE, re.MULTILINE)
    assert {name.upper() for name in compiled} == set(re.findall(r"SKLEARN_CONV_HAS_(\w+)", core))


def test_libraries_beside_the_sources_are_not_packaged():
    assert {Path(library.NAME).suffix, ".so", ".dylib", ".dll"} == {
        pattern.removeprefix("*") for pattern in SCIKIT_BUILD["sdist"]["exclude"]
    }


@pytest.mark.skipif(sys.platform == "win32", reason="the generators differ")
@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no compiler")
def test_cmake_finds_the_instruction_sets(tmp_path):
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path], check=True, capture_output=True)
    cache = (tmp_path / "CMakeCache.txt").read_text()
    assert "HAS_VECTOR_EXTENSIONS:INTERNAL=1" in cache
