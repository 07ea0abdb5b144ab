"""Captures: what came to a receiver's data endpoint, in a file, message by message."""
