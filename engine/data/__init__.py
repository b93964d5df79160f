"""From files to packed bins: read, detect, render, mask, pack."""
