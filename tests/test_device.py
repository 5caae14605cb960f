"""How many cores a process may use, by what the kernel says of its control groups."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import forkserver
import pytest

from nearfar.core.device import compute_threads, cores, cpu_quota


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("group", "files", "found"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4.0),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, math.inf),
        ("0::/host/path\n", {"cpu.max": "100000 50000\n"}, 2.0),  # a container's own group is the mount
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n0::/\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            "4:cpu,cpuacct:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ("4:cpuset:/x\n", {"cpuset/x/cpu.cfs_quota_us": "1\n"}, math.inf),
        ("0::/a\n", {"a/cpu.max": "nonsense\n"}, math.inf),
        ("nonsense\n0::/a\n", {"a/cpu.max": "10000 100000\n"}, 0.1),
        ("0::/../x\n", {"cpu.max": "33333 100000\n"}, 0.33333),
    ],
)
def test_the_quota_is_the_least_of_the_group_and_those_above(
    group: str, files: dict[str, str], found: float, tmp_path: Path
) -> None:
    write(tmp_path / "proc/cgroup", group)
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    assert cpu_quota(tmp_path / "proc", tmp_path / "cgroup") == found
    assert cpu_quota(tmp_path / "nothing", tmp_path / "cgroup") == math.inf


def test_a_quota_sets_the_number_of_cores_and_threads(tmp_path: Path) -> None:
    assert 1 <= compute_threads() <= cores()
    place = tmp_path / "proc", tmp_path / "cgroup"
    write(place[0] / "cgroup", "0::/a/b\n")
    for quota, count in (("50000", 1), ("100000", 1), ("100001", 2), ("150000", 2), ("max", cores())):
        write(place[1] / "a/cpu.max", f"{quota} 100000\n")
        assert cores(*place) == min(count, cores())


FAULTS = """
import ctypes, os, resource, sys
from nearfar.core.memory import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
kept = keep_freed_memory()

def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = library.malloc(ctypes.c_size_t(64 << 20))
    ctypes.memset(piece, 1, 64 << 20)
    library.free(ctypes.c_void_p(piece))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touched()
print(kept, touched())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is a C library of Linux")
def test_large_pieces_of_memory_are_kept_unless_the_user_set_how() -> None:
    def told(**more: str) -> tuple[str, int]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | more
        kept, faults = forkserver.run(FAULTS, check=True, env=env).stdout.split()
        return kept, int(faults)

    kept, faults = told()
    if kept == "False":
        pytest.skip("another C library than glibc")
    assert faults < 100  # of 16,384 pages
    kept, faults = told(MALLOC_ARENA_TEST="2")
    assert kept == "False" and faults > 1000
