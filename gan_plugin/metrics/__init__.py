"""Metrics of images: pure functions of arrays, and the catalog of them all. Knows no MLflow.

``catalog`` and ``pixels`` import no torch. The others take torch tensors, of features, logits or labels, and work on
the device that holds them, in float64: not on Apple's MPS, which has none.
"""
