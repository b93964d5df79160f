"""Token rows into bins, bins into batches."""
