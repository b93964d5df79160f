"""What screens share and keep between them."""
