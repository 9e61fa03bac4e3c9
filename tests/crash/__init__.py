"""Processes that are killed, starved of disk or interrupted while they work, and what has to be true afterwards.

`server` prepares a scenario once and forks a process for each point at which one is to be killed (`steps`); then it
lets the next run finish and compares everything with a plain model (`model`), which knows nothing of `mmmeta_core`.
"""
