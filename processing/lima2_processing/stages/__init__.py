"""Steps of pipelines on the device: one a file, its kernels beside it."""
