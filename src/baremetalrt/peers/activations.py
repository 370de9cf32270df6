"""How rows travel from peer to peer: all but 32 bit change what is computed."""

from typing import Literal

Activations = Literal["f32", "f16", "q8"]
