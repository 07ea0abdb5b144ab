"""The ingest: takes a detector's one stream and hands its messages to receivers, which process and save them."""
