"""What can be odd about rows that are trained on all the same."""

CUT = "cut"
"""Longer than data.max_length: its end, and the end of its last answer, is not learnt."""
