"""Tasks: what goes in, what comes out, how it is judged; one file a task."""
