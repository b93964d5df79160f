"""Rows as the model will see them, beside the rows in their file."""
