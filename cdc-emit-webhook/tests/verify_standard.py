"""Verifies requests with the public `standardwebhooks` package (`cargo xtask setup` installs it).

Reads cases from standard input, a JSON list of {secrets, headers, body}, the body in base64. Every
secret must verify the request; a changed body, a changed id and a foreign key must not.
"""

import base64
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError


def refused(key: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(key).verify(body, headers, json_parse=False)
    except WebhookVerificationError:
        return True
    return False


cases = json.load(sys.stdin)
for number, case in enumerate(cases):
    headers, body = case["headers"], base64.b64decode(case["body"])
    for secret in case["secrets"]:
        Webhook(secret).verify(body, headers, json_parse=False)
        if not refused(secret, body + b" ", headers):
            sys.exit(f"case {number}: a changed body verifies")
        if not refused(secret, body, headers | {"webhook-id": "cdc_other"}):
            sys.exit(f"case {number}: a changed id verifies")
    stranger = "whsec_" + base64.b64encode(b"x" * 32).decode()
    if not refused(stranger, body, headers):
        sys.exit(f"case {number}: a foreign key verifies")
print(len(cases))
