"""HDF5 files that can be read while they are written, and after their writer was killed."""
