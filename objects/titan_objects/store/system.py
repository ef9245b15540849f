"""The machine's clock, chance and resources: the one module of the store that may reach for them."""

import os
import platform
import random
import time


def unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


monotonic = time.perf_counter
"""Seconds, for measuring how long something took."""


def generator() -> random.Random:
    """What commands draw from: the system's own entropy, because passwords are drawn from it as well."""
    return random.SystemRandom()


def resident_bytes() -> int:
    """Memory of this process, as Linux counts it; 0 elsewhere."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def surroundings() -> dict[str, dict[str, object]]:
    """What INFO says of the process and the machine."""
    used, spent = resident_bytes(), os.times()
    return {
        "server": {"os": f"{platform.system()} {platform.release()} {platform.machine()}", "process_id": os.getpid()},
        "memory": {
            "used_memory": used,
            "used_memory_human": f"{used / (1 << 20):.2f}M",
            "used_memory_rss": used,
        },
        "cpu": {"used_cpu_sys": f"{spent.system:.6f}", "used_cpu_user": f"{spent.user:.6f}"},
    }
