"""Judging a generator: real pictures' statistics, a generator's figures beside them, and what a report shows."""
