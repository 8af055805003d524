"""The data access broker: grants, slices, gate, workers, audit, and the HTTP service."""
