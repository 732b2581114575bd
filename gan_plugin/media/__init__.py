"""What one sample is as values and as a file: one module a kind."""
