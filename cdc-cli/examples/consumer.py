#!/usr/bin/env python3
"""A consumer for `emitter = "custom"`, with nothing but Python's own library.

    [cdc]
    emitter = "custom"
    [cdc.custom]
    command = ["python3", "consumer.py", "/var/lib/shop/events.db"]

It keeps events in an SQLite database, each once, and answers what is safely there
(docs/specs/custom-child.md). Everything that came together is committed together, so that one sync
covers many events. It may be killed at any moment: what it has not answered comes again, and the
id of an event, which is the table's key, keeps it from being kept twice.
"""

import json
import os
import sqlite3
import sys


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: consumer.py DATABASE")
    database = sqlite3.connect(sys.argv[1])
    # A commit returns when the events are on the disk: only then may they be answered.
    database.execute("PRAGMA synchronous = FULL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS event"
        " (id TEXT NOT NULL UNIQUE, op TEXT NOT NULL, relation TEXT, document TEXT NOT NULL)"
    )
    rest = b""
    while chunk := os.read(sys.stdin.fileno(), 1 << 20):
        # The last line may not be whole yet.
        *lines, rest = (rest + chunk).split(b"\n")
        last = None
        for line in lines:
            event = json.loads(line)
            relation = f"{event.get('schema')}.{event.get('table')}"
            database.execute(
                "INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?)",
                (event["id"], event["op"], relation, line.decode()),
            )
            last = event["id"]
        if last is not None:
            database.commit()
            # Everything up to and including this event is safe. Standard output is for answers
            # alone: logs belong on standard error.
            print(last, flush=True)


if __name__ == "__main__":
    main()
