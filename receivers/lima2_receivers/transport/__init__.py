"""Sockets: what carries bytes between processes."""
