"""Widgets that know nothing of the engine: data in, messages out."""
