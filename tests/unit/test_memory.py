"""The allocator keeps what tensors free."""

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import os, sys
from recsys.training.memory import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
import numpy as np
def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before, block = held(), np.ones(64 << 20, np.uint8)
del block
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is meant")
def test_freed_memory_stays_with_the_process():
    held = {
        word: int(subprocess.run([sys.executable, "-c", _SCRIPT, word], capture_output=True, check=True).stdout)
        for word in ("keep", "default")
    }
    assert held["keep"] > 60 << 20
    assert held["default"] < 8 << 20
