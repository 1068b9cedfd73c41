"""Engines that a policy can steer."""
