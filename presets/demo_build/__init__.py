"""The committed, reproducible scripts that make everything in `presets/demo`: world, tokenizer, model."""
