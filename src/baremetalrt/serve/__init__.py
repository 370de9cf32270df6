"""The HTTP server, and the dialects that its clients speak."""
