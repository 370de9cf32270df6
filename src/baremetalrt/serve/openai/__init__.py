"""The OpenAI API, as its clients expect it.

Source: OpenAI's API reference for chat completions, completions and models.
"""
