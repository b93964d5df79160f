"""The tuned model asked: chat, and the demo's questions."""
