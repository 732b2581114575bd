"""The adversarial state: one step, the loop around it, checkpoints. Knows neither MLflow nor click."""
