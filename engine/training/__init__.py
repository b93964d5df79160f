"""The loop and what happens round it."""
