"""Spans of a model on other machines: who they are, how they are hosted, how they are called."""

import os

# gRPC prints a line for each certificate that stands for all torrents; what matters is raised, too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
