"""Making models smaller, from a request to a report."""
