"""A process that is told to end ends in order, whatever Python is doing at that moment."""

import signal
import subprocess
import sys

import pytest

IN_A_CALLBACK = """
import os, sys, time, weakref
from pipelines.signals import obey_signals
obey_signals()
class Thing: pass
def callback(_):
    os.kill(os.getpid(), int(sys.argv[1]))
    sum(range(10_000))  # here the signal is handled
    print("not interrupted")
thing = Thing()
watch = weakref.ref(thing, callback)
try:
    del thing
    time.sleep(5)
    print("lost")
finally:
    print("in order")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_inside_a_callback_of_the_garbage_collector_is_not_lost(number: int, code: int) -> None:
    command = [sys.executable, "-c", IN_A_CALLBACK, str(int(number))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (code, "in order\n"), ran.stderr
