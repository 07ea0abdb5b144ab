"""Detector plugins: one folder each, with control half, source half and parameters."""
