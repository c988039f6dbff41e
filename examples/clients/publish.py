"""Publish a goal with plain nats-py and follow it to its end.

python publish.py nats://user:password@host:4222 "What I want, or a whole goal as JSON"
"""

import asyncio
import json
import sys
import uuid

import nats


async def main(url: str, text: str) -> None:
    goal = {"id": str(uuid.uuid4()), **(json.loads(text) if text.startswith("{") else {"text": text})}
    async with await nats.connect(url) as client:
        events = await client.subscribe(f"events.public.{goal['id']}.>")
        await client.publish("goals.submit", json.dumps(goal).encode())
        async for message in events.messages:
            event = json.loads(message.data)
            print(event["kind"], json.dumps(event["data"]), flush=True)
            if event["kind"] in ("goal.finished", "goal.refused"):
                return


asyncio.run(main(*sys.argv[1:]))
