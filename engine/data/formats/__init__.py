"""What a row means: its format, its columns, its turns, told the same way whatever it came as."""
