"""Export: a bundle in the form of another runtime; each export passes the parity gate or is refused."""
