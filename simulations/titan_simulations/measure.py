"""What a run costs, and under what it ran: CPU, memory, versions."""

import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("titan-overlay", "kademlia", "rpcudp", "cryptography", "msgspec")


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_rss_bytes() -> int:
    """Most memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """Memory of this process now (Linux; elsewhere the peak)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_rss_bytes()


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what happens."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
