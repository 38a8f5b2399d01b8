"""Compression: stages that make a bundle smaller; one that saves neither bytes nor time is refused."""
