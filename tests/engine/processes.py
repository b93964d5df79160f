"""Waiting in tests for processes that others started to end."""

import time

import psutil


def ended(pid: int, seconds: float = 60) -> bool:
    """Within `seconds`: gone, or a zombie that nobody has asked after yet."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False
