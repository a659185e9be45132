"""One thin file a stage that wraps single-process code with Ray; the only place that imports Ray."""
