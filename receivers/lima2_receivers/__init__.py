"""Conductor and receiver daemons: taking frames, running pipelines, saving files."""
