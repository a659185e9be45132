"""What an evaluation reads, measures and reports."""
