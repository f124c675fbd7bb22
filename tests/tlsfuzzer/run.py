"""Talks to TLS servers as tlsfuzzer does, and compares what they answer with what is expected.

``nox -s tlsfuzzer`` calls it. Arguments: ``--server NAME`` (repeatable), and parts of the names of
conversations.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.certificates import Workshop
from tlsfuzzer import handshakes, hellos, records
from tlsfuzzer.conversations import ALL, Conversation
from tlsfuzzer.differences import expected_of
from tlsfuzzer.rogue import Client, outcome_of
from tlsfuzzer.servers import NAMES, Address, serving

#: These have added their conversations.
_ADDED_BY = (hellos, handshakes, records)


def main() -> int:
    """Run the conversations, and return how many have gone wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", action="append", choices=NAMES)
    parser.add_argument("--table", action="store_true", help="show every outcome")
    parser.add_argument("part", nargs="*")
    arguments = parser.parse_args()
    chosen = [it for it in ALL if not arguments.part or any(p in it.name for p in arguments.part)]
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        certfile = Workshop(Path(folder)).issue("localhost").file
        for server in arguments.server or NAMES:
            with serving(server, certfile) as address:
                for conversation in chosen:
                    failures += not talk(server, address, conversation, arguments.table)
    print(f"{len(chosen)} conversations, {failures} unexpected outcomes")
    return min(failures, 100)


def talk(server: str, address: Address, conversation: Conversation, is_shown: bool) -> bool:
    """Have a conversation; return whether it has gone as expected."""
    outcome = outcome_of(conversation.say, Client(address, conversation.version))
    expected = expected_of(server, conversation)
    is_right = outcome in expected
    if is_shown or not is_right:
        mark = "" if is_right else f"  (expected: {', '.join(sorted(expected))})"
        print(f"{server:8}  {conversation.name}: {outcome}{mark}", flush=True)
    return is_right


if __name__ == "__main__":
    sys.exit(main())
