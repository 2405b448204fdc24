"""Engines: one object owns a whole optimizer step. What a run is, or why a step is made, they do not know."""
