"""Data: read tables, find their columns, check and clean them, find near duplicates, split."""
