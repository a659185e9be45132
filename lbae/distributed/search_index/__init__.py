"""Building a search index, and searching it, in tasks."""
