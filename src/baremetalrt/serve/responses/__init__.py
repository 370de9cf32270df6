"""OpenAI's Responses API, as its clients expect it.

Source: OpenAI's API reference for responses and their streaming events.
"""
