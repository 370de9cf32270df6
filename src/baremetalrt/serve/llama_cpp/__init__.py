"""What clients of llama.cpp's own server ask besides: tokens, prompts, and gaps to fill.

Source: the description of llama.cpp's server.
"""
