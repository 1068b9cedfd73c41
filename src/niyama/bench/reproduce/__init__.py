"""`niyama reproduce`: the paper's evaluation, simulated, drawn, and set beside the paper's numbers.

Reading guide: `registry` (every figure by name); a figure's module (compute, then table and findings,
then draw); `cases` (what serves what), `tasks` (one simulation each, pure), `lab` (runs tasks over
processes, each once), `scale` (how long and how fine), `results` (what is written), `run`.
"""
