"""Virtual time: the policies that serve on vLLM, run against a step-time profile.

Reading guide: `replica` (one engine), `kv` (its memory), `fleet` (several behind a router), `run` (a
workload from start to end), `verdicts` (who was late), `report` (the numbers), `capacity`, `bounds`;
`lateness` (who must be late, made of `prices` and `sweep`).
"""
