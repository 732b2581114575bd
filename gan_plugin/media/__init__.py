"""Samples as values and as files: one module for each kind."""
