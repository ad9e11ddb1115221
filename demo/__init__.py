"""The life cycle of an adapter on real weights and real text, checked claim by claim: `make demo`."""
