"""The machine a run is on: its device, memory and processes, the libraries, background jobs."""
