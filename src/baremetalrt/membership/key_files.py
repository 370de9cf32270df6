"""Private keys on disk."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from baremetalrt.core.errors import IntegrityError


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A key as `key_pem` writes it.

    Raises:
        IntegrityError: there is none, or it is of another kind.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("another kind of key")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IntegrityError(
            f"{path.name} cannot be used: {error}", source=str(path), code="swarm.damaged"
        ) from error
    return key
