"""A run in a thread of its own, watched or headless. Light: training is loaded inside the thread."""
