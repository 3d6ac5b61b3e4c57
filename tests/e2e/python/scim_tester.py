"""Kronos as scim2-tester sees it: every check it has, none skipped.

Reads {"base", "token"} from standard input; says ok, or fails with what was found.
"""

import json
import sys

from httpx2 import Client
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server

given = json.load(sys.stdin)
http = Client(base_url=given["base"], headers={"authorization": "Bearer " + given["token"]}, timeout=60)
results = check_server(SyncSCIMClient(http))
good = (Status.SUCCESS, Status.COMPLIANT)
for result in results:
    if result.status not in good:
        print(result.status.name, result.resource_type, result.title, result.reason, result.data)
assert len(results) > 60, f"only {len(results)} checks"
assert all(result.status in good for result in results)
print(f"{len(results)} checks")
print("ok")
