"""What this machine has: processors, memory, and how much of it may be used."""
