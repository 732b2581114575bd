"""Figures that judge images: pure functions of arrays. Knows no MLflow.

``pixels`` takes numpy arrays. The others take torch tensors, of features, logits or labels, and work on the device that
holds them, in float64: not on Apple's MPS, which has none.
"""
