"""Devices, plans and Tiled services for detectors behind a lima2 conductor."""
