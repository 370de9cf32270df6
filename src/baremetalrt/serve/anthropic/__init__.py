"""Anthropic's Messages API, as its clients expect it.

Source: Anthropic's API reference for messages, streaming and counting tokens.
"""
