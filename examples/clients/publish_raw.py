"""Publish a goal over a bare TCP socket, without any NATS library, and follow it to its end.

python publish_raw.py nats://user:password@host:4222 "What I want, or a whole goal as JSON"
"""

import json
import socket
import sys
import uuid
from urllib.parse import urlsplit


def main(url: str, text: str) -> None:
    goal = {"id": str(uuid.uuid4()), **(json.loads(text) if text.startswith("{") else {"text": text})}
    payload = json.dumps(goal).encode()
    address = urlsplit(url)
    login = json.dumps({"verbose": False, "user": address.username, "pass": address.password})
    with socket.create_connection((address.hostname, address.port or 4222)) as connection:
        stream = connection.makefile("rwb")
        assert stream.readline().startswith(b"INFO ")
        stream.write(f"CONNECT {login}\r\n".encode())
        stream.write(f"SUB events.public.{goal['id']}.> 1\r\n".encode())
        stream.write(f"PUB goals.submit {len(payload)}\r\n".encode() + payload + b"\r\n")
        stream.flush()
        for line in stream:
            if line.startswith(b"PING"):
                stream.write(b"PONG\r\n")
                stream.flush()
            elif line.startswith(b"-ERR"):
                raise SystemExit(line.decode())
            elif line.startswith(b"MSG "):
                event = json.loads(stream.read(int(line.split()[-1])))
                print(event["kind"], json.dumps(event["data"]), flush=True)
                if event["kind"] in ("goal.finished", "goal.refused"):
                    return


main(*sys.argv[1:])
