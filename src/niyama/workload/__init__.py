"""What arrives at the fleet: when, how long, of which class.

Reading guide: `generate` (a workload and its requests), `arrivals` (processes), `presets` and
`tracefile` (lengths), `streams` (randomness).
"""
