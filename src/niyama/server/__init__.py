"""What runs in the API server: QoS mapping, the /niyama routes, metrics."""
