"""BareMetalRT: large language models at home, BitTorrent-style."""

__version__ = "0.1.0"
