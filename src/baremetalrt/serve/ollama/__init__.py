"""Ollama's API, as its clients expect it.

Source: `docs/api.md` of Ollama, version 0.13.
"""
