"""The studio: jobs, the worker that renders them, and the pages that show them."""
