"""The engine: load, patch, data, train, memory, chat, evaluate, export."""
