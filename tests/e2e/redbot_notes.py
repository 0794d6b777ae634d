"""REDbot's notes on requests, as a program: its event loop is the whole process's.

Reads JSON of `{name: {url, method, headers, content, active}}` from stdin; writes `{name: {status, notes: [[level, note, summary]]}}`. Notes of REDbot's own
requests (validation, ranges, negotiation) are among them, under `name check`.
"""

import configparser
import json
import sys

import thor
from redbot.resource import HttpResource

config = configparser.ConfigParser()
config.read_dict({"redbot": {"enable_local_access": "true"}})
wanted = json.load(sys.stdin)
found = {}


def noted(message, extra=()):
    notes = [*message.response.notes, *message.request.notes, *extra]
    error = message.fetch_error
    return {
        "status": message.response.status_code, "error": str(error) if error else None, "complete": message.response.complete,
        "notes": [[note.level.name, type(note).__name__, str(note.summary)] for note in notes],
    }


def check(names):
    if not names:
        return thor.stop()
    name, *rest = names
    request = wanted[name]
    resource = HttpResource(config["redbot"], descend=False, active_checks_enabled=request.get("active", False))
    resource.set_request(request["url"], method=request.get("method", "GET"), headers=request.get("headers", []), content=request.get("content", "").encode())

    @thor.events.on(resource)
    def check_done():
        found[name] = noted(resource)
        for kind, other in resource.subreqs.items() if request.get("active") else []:
            found[f"{name} {kind}"] = noted(other)
        thor.schedule(0, check, rest)

    resource.check()


check(list(wanted))
thor.run()
json.dump(found, sys.stdout)
