"""Our own maths for the parts of a model."""
