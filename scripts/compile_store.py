"""Compiles the store's hot modules while a wheel is built, if that is asked for:

    HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip install 'titan-overlay[store]'

A C compiler is needed then. The modules that mypyc compiles stand in `pyproject.toml`; where nothing was compiled, the
same code runs plain.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILD = """
import sys
from mypyc.build import mypycify
from setuptools import setup
setup(name="store", packages=[], ext_modules=mypycify(sys.argv[1:]), script_args=["build_ext", "--inplace"])
"""
PACKAGES = "objects/titan_objects"


class CompileStore(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the extension modules to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # what is edited is to run
            return
        root = Path(self.root)
        self._place = place = Path(tempfile.mkdtemp(prefix="titan-compiled-"))
        shutil.copytree(root / PACKAGES, place / "titan_objects")
        flags = ["--ignore-missing-imports", "--follow-imports=silent"]
        modules = [f"titan_objects/store/{name}.py" for name in self.config["modules"]]
        # mypy is to find the types of the public API as well.
        environment = os.environ | {"MYPYPATH": str(root)}
        words = [sys.executable, "-c", BUILD, *flags, *modules]
        done = subprocess.run(
            words, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise RuntimeError(f"the store could not be compiled:\n{done.stdout}")
        shutil.rmtree(place / "build")
        for made in sorted(place.rglob("*.so")):
            build_data["force_include"][str(made)] = str(made.relative_to(place))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self._place)
