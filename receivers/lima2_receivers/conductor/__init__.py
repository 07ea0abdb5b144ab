"""The conductor daemon: one per detector, the single entry point for clients. It never carries pixels."""
