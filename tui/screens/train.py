"""Train: a run, live or on record."""

from .base import EvenfallScreen


class TrainScreen(EvenfallScreen):
    NAME = "train"
