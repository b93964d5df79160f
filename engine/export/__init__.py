"""What a run leaves behind, in the forms that others load."""
