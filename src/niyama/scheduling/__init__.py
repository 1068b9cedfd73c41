"""The policy core: decides every engine step. Pure Python; no vLLM, no clock, no I/O."""
