"""What differs between architectures: a row of the table each, and how a layer of theirs is read."""
