"""What can be wrong with rows, and how it is found."""
