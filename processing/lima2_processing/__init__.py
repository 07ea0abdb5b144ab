"""Pure compute on detector frames: NumPy and OpenCL, no sockets, no files, no asyncio."""
