"""The policy's targets in the simulator: what is simulated, kept, compared and written."""
