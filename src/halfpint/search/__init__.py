"""Search: candidates, limits, and `fit`, which finds the smallest candidate that meets them."""
