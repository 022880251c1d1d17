"""Security operations: triage of sshd's authentication logs.

The rules are plain functions in `sshd`, `watch`, `rules`, `sweep` and `policy`; `triage` runs them in one
process, agents run the same ones.
"""
