"""Models that we have no graphs for: computed whole by libllama, in a process of their own."""
