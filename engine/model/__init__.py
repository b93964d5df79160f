"""The model: its source, tokenizer and chat template, loading, the adapter."""
