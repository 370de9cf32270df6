"""From documents and examples to an adapter, and how it is forgotten."""
