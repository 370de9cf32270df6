"""Names of responses and their steps."""

import uuid


def new_id(prefix: str) -> str:
    """A name that nothing else has."""
    return f"{prefix}_{uuid.uuid4().hex}"
