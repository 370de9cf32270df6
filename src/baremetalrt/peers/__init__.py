"""Spans of a model on other machines: who they are, how they are hosted, how they are called."""

import os

# Without it, gRPC tells the terminal of every stranger who fails a handshake; callers are told anyway.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
