"""What is told of a data set: counts, findings and their places. Light: screens read it."""
