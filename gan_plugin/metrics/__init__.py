"""Figures that judge pictures: pure functions of arrays. Knows neither MLflow nor torch."""
