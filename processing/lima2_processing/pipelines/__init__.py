"""Pipelines, one a file. The parameters of each are in a module that imports no OpenCL."""
