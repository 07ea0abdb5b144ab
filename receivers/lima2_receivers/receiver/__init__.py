"""The receiver daemon: takes one stream of frames, runs a pipeline on them, and saves."""
