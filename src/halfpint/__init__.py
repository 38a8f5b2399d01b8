"""halfpint: small language models, from raw text to production, on hardware you own."""

__version__ = "0.1.0"
