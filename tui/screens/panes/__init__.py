"""Parts of screens that know the engine."""
