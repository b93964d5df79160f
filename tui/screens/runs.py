"""Runs: every run under the folder."""

from .base import EvenfallScreen


class RunsScreen(EvenfallScreen):
    NAME = "runs"
