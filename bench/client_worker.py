"""A client over HTTP in a process of its own: one JSON request per line, one line when it is answered."""

import http.client
import json
import sys


def main() -> None:
    port = json.loads(sys.argv[1])["port"]
    # One connection for all of them, as libraries keep theirs.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        headers = {"content-type": "application/json"}
        connection.request("POST", asked["path"], json.dumps(asked["body"]), headers)
        answer = connection.getresponse()
        said = answer.read()
        # Other lines of an answer tell nothing that is asked for here.
        print(json.dumps({"status": answer.status, "bytes": len(said)}), flush=True)


if __name__ == "__main__":
    main()
