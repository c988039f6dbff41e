"""Where untrusted programs run: one port, several adapters, one conformance suite."""
