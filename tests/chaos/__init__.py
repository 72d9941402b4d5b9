"""Proof of the lock service: real processes, real databases, faults, and a history checker.

    python -m tests.chaos.run --store sqlite --seconds 60 --seed 1

`worker` is one Jupyter server's lock service with holders that do random things. `nemesis` does
what goes wrong meanwhile. Both write down what happened, and when, in files of their own (see
`history`), and `checker` says of all of it which rules were broken.
"""
