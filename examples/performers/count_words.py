"""A performer of lane `custom.words` on plain nats-py: answers every task with the words its inputs hold.

goalwright lane add custom.words --description "Counts the words of its inputs"
python count_words.py nats://user:password@host:4222
"""

import asyncio
import contextlib
import hashlib
import json
import sys

import nats


async def main(url: str) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    lane = await stream.pull_subscribe_bind(durable="work-custom-words", stream="WORK")
    while True:
        with contextlib.suppress(nats.errors.TimeoutError):
            (message,) = await lane.fetch(1, timeout=30)
            work = json.loads(message.data)
            words = sum(len(ref["inline"].split()) for ref in work["inputs"].values())
            body = str(words).encode()
            ref = {"type": "text", "media_type": "text/plain", "size": len(body), "inline": body.decode()}
            ref["sha256"] = hashlib.sha256(body).hexdigest()
            outputs = {output["name"]: {"name": output["name"], **ref} for output in work["spec"]["outputs"]}
            outcome = {key: work[key] for key in ("goal_id", "task_id", "epoch")}
            outcome |= {"kind": "done", "outputs": outputs, "summary": f"{words} words"}
            await stream.publish("outcomes.custom.words", json.dumps(outcome).encode())
            await message.ack()  # last: an outcome is never lost, and one that comes twice does no harm


asyncio.run(main(*sys.argv[1:]))
