"""Calls of tools: how models write them, and finding them in what streams in.

Every family of models has a notation of its own, which its chat template teaches it.
"""
