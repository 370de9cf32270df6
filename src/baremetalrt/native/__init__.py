"""The ggml and llama C libraries: the only place with foreign calls.

Everything outside this package sees Python objects that own their C handles, and shapes and types
that were checked before the library could abort on them.
"""
