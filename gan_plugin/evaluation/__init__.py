"""Judging a generator: real images' statistics, a generator's figures beside them, and what a report shows."""
