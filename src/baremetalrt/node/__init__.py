"""Puts a model together: names, files, adapters, measuring, fetching, seeding."""
