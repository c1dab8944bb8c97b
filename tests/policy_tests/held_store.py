"""A run of tests in miniature: holds the server, and says when it answers.

python -m tests.policy_tests.held_store     prints "up"; ends when stdin closes
"""

import sys

from ratelimitd.policy_tests.server import running_store

if __name__ == "__main__":
    with running_store():
        print("up", flush=True)  # noqa: T201 - how the test learns it
        sys.stdin.read()
