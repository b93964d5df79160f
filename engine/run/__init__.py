"""What a run tells, hears and keeps: its events, commands, directory and log. Light: loads no torch."""
