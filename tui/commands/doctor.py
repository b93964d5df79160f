"""`evenfall doctor`: what this machine has and lacks."""

import argparse

from .parser import Commands


def add(commands: Commands) -> None:
    words = "check GPU, driver, versions, kernels, disk and memory"
    commands.add("doctor", _doctor, words)


def _doctor(args: argparse.Namespace) -> int:
    del args
    from ...engine.doctor.checks import run_checks
    from ...engine.doctor.fact import exit_code, format_check
    from .plain import PlainLines

    say = PlainLines().say
    checks = []
    for check in run_checks():
        checks.append(check)
        say(format_check(check))
    return exit_code(checks)
