"""Shared helpers of the test suites: loops by name, the leak guard, peers, recording protocols.

Nothing in here imports the loop under test before a test asks for it by name.
"""
