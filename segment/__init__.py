"""Segmentation: networks, fit, predict, evaluate. Nothing here yet."""
