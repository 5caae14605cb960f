"""How many cores a process may use, by what the kernel says of its control groups."""

from __future__ import annotations

import math
from pathlib import Path

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


def test_a_quota_sets_the_number_of_cores_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= compute_threads() <= cores()
    monkeypatch.setattr("nearfar.core.device.cpu_quota", lambda: 0.5)
    assert cores() == compute_threads() == 1
