"""Hyperparameters, settings, and the recipes that ship. Imports no torch."""
