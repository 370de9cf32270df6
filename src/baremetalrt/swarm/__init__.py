"""Torrents: publish, fetch in execution order, verify, seed, cache, evict."""
