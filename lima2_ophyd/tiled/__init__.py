"""What connects the documents and files to Tiled: an adapter, a server, a writer process and the bus to it."""
