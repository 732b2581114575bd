"""The evaluation of a generator: its metrics beside those of real images, and what a report shows.

Stands beside training and imports nothing of it.
"""
