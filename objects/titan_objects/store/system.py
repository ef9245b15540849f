"""The machine's clock, chance and resources: the one module of the store that may reach for them."""

import os
import platform
import random
import time

from titan_objects.store.stats import human


def unix_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


monotonic = time.perf_counter
"""Seconds, for measuring how long something took."""


sleep = time.sleep
"""Halts the whole process."""


def generator() -> random.Random:
    """What commands draw from: the system's own entropy, because passwords are drawn from it as well."""
    return random.SystemRandom()


RUN_ID = os.urandom(20).hex()
"""Names this process."""


def resident_bytes() -> int:
    """Memory of this process, as Linux counts it; 0 elsewhere."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def peak_bytes() -> int:
    """The most that it has been; 0 where nobody knows."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def machine_bytes() -> int:
    """Memory of this machine; 0 where nobody knows."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


_AT_START = resident_bytes()


def surroundings() -> dict[str, dict[str, object]]:
    """What INFO says of the process and the machine."""
    used, spent = resident_bytes(), os.times()
    peak, total = max(used, peak_bytes()), machine_bytes()
    return {
        "server": {
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "process_id": os.getpid(),
            "run_id": RUN_ID,
        },
        "memory": {
            "used_memory": used,
            "used_memory_human": human(used),
            "used_memory_rss": used,
            "used_memory_rss_human": human(used),
            "used_memory_peak": peak,
            "used_memory_peak_human": human(peak),
            "used_memory_peak_perc": f"{100 * used / max(1, peak):.2f}%",
            "used_memory_startup": _AT_START,
            "total_system_memory": total,
            "total_system_memory_human": human(total),
            "mem_fragmentation_ratio": "1.00",
            "mem_fragmentation_bytes": 0,
        },
        "cpu": {
            "used_cpu_sys": f"{spent.system:.6f}",
            "used_cpu_user": f"{spent.user:.6f}",
            "used_cpu_sys_children": f"{spent.children_system:.6f}",
            "used_cpu_user_children": f"{spent.children_user:.6f}",
        },
    }
