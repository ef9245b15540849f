"""Imports the code of a bundle from memory, under a private name: no files, no change of `sys.path`.

The modules of a bundle with digest d live in the package `titan_bundles.h<d>`; two versions of a bundle do not meet.
Nothing here checks who signed what: `bundles.py` does, before anything gets here.
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

from titan_overlay.errors import BUNDLE_MODULES

ROOT = BUNDLE_MODULES.rstrip(".")


class _Loader(ExecutionLoader):
    """One module whose source is at hand."""

    def __init__(self, source: bytes, path: str, package: bool) -> None:
        self._source = source
        self._path = path
        self._package = package

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_source(self, fullname: str) -> str:
        """For tracebacks too, which ask the loader where there is no file."""
        return importlib.util.decode_source(self._source)

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, self._path)

    def is_package(self, fullname: str) -> bool:
        return self._package


class _Finder(MetaPathFinder):
    """Finds the modules of the bundles that were given to `load_module`."""

    def __init__(self) -> None:
        self.bundles: dict[str, Mapping[str, bytes]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == ROOT:
            return self._spec(fullname, b"", f"<{ROOT}>", True)
        root, _, rest = fullname.partition(".")
        if root != ROOT:
            return None
        package, _, module = rest.partition(".")
        files = self.bundles.get(package)
        if files is None:
            return None
        shown = f"<bundle {package[1:13]}>"
        if not module:
            return self._spec(fullname, b"", shown, True)
        stem = module.replace(".", "/")
        for name, is_package in ((f"{stem}.py", False), (f"{stem}/__init__.py", True)):
            if name in files:
                return self._spec(fullname, files[name], f"{shown}/{name}", is_package)
        return None

    def _spec(self, fullname: str, source: bytes, path: str, package: bool) -> ModuleSpec | None:
        loader: Any = _Loader(source, path, package)
        return importlib.util.spec_from_loader(fullname, loader, is_package=package)


_FINDER = _Finder()


def load_module(digest: bytes, files: Mapping[str, bytes], module: str) -> ModuleType:
    """Runs a module of a bundle (once for each digest) and returns it.

    Args:
        files: path in the bundle -> source, as `imgkit/__init__.py`.

    Raises:
        whatever the code raises; nothing of the bundle stays imported then.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)
    package = f"h{digest.hex()}"
    _FINDER.bundles.setdefault(package, dict(files))
    try:
        return importlib.import_module(f"{ROOT}.{package}.{module}")
    except BaseException:
        forget(digest)
        raise


def forget(digest: bytes) -> None:
    """Takes the modules of a bundle out of memory, as far as nobody uses them any more."""
    package = f"h{digest.hex()}"
    _FINDER.bundles.pop(package, None)
    prefix = f"{ROOT}.{package}"
    for name in [name for name in sys.modules if name == prefix or name.startswith(prefix + ".")]:
        del sys.modules[name]
