"""The reproducible scripts that make what `presets/demo` holds: world, tokenizer, model."""
