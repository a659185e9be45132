"""The body of every job: options, checks, and calls of the stages."""
