"""Private files and mail, as clean text that remembers where it came from."""
