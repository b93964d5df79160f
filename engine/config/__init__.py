"""What decides a run: its configuration, as YAML, form fields and overrides. Light: loads no torch."""
