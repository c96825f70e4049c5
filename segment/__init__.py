"""Segmentation: networks, fit, predict, evaluate.."""
