"""Disks that fail, for tests of what is written to them."""

import fcntl
import os
from collections.abc import Callable

import pytest

pwrite, fdatasync = os.pwrite, os.fdatasync


def confirms_by(monkeypatch: pytest.MonkeyPatch, confirm: Callable[[int], object]) -> None:
    """Has `confirm` called with the file whenever the disk is to confirm it: after writes, or with one (O_DSYNC)."""

    def write(fd: int, data: bytes, offset: int) -> int:
        written = pwrite(fd, data, offset)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC == os.O_DSYNC:
            confirm(fd)
        return written

    monkeypatch.setattr(os, "fdatasync", confirm)
    monkeypatch.setattr(os, "pwrite", write)
