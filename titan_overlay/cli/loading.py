"""The settings of this user, from flags, environment and file. Imported by `titan-node`: it stays light."""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from titan_overlay.config import Resolved, load
from titan_overlay.pool.hosting.packing import installed_types


def load_settings(flags: Mapping[str, object], file: Path | None = None) -> Resolved:
    """The settings of this user; every installed object type may have its `[[section]]` in the file."""
    return load(flags=flags, environment=os.environ, file=file, object_sections=_InstalledTypes())


class _InstalledTypes(Collection[str]):
    """Names of installed object types. Looked up only where a file has such a section: most have none."""

    def __contains__(self, name: object) -> bool:
        return name in installed_types()

    def __iter__(self) -> Iterator[str]:
        return iter(installed_types())

    def __len__(self) -> int:
        return len(installed_types())
