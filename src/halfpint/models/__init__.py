"""Models: own architectures (one a file), the catalogue of base models, and where they come from."""
