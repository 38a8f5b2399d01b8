"""Serving: one file a task with `build_app(bundle_path, ...)`, the server that runs it, and files in batches."""
