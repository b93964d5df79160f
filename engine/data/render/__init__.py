"""Rows into tokens by the model's chat template, and which of them are learnt."""
