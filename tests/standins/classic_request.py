"""A stand-in for the classic request, written after docs/protocol.md section 10. Standard library only.

    classic_request.py http://HOST:PORT TOKEN ACTION [DATA]

Posts DATA and prints one line of JSON: {"status", "reason", "accept", "body"}.
"""

import json
import sys
import urllib.error
import urllib.request


def main():
    origin, token, action = sys.argv[1:4]
    data = sys.argv[4] if len(sys.argv) > 4 else ""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request("%s/%s/%s" % (origin, action, token), data.encode(), method="POST")
    try:
        answer = opener.open(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    body = answer.read().decode("utf-8")
    print(json.dumps({"status": answer.status, "reason": answer.reason, "accept": answer.headers["Accept"], "body": body}))


main()
