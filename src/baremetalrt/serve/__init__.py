"""The node that wires everything together, and the OpenAI-compatible server in front of it."""
