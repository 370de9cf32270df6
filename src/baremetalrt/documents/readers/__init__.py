"""One reader per format: bytes in, documents out. They run in the reading process only."""
