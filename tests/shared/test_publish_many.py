"""What is written in one go arrives as if it had been published one by one."""

from __future__ import annotations

import asyncio

import nats
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_shared.broker import Outgoing, publish_many


async def test_messages_arrive_whole_and_in_order(nats_server: EmbeddedNats) -> None:
    client = await nats.connect(nats_server.service_url)
    heard = await client.subscribe("many.>")
    await client.flush()
    sent = [
        Outgoing(
            f"many.{n % 3}",
            "ä\r\n".encode() * n,
            f"Nats-Msg-Id: m{n}\r\nschema: s/1\r\n",
            f"answer.{n}" * (n % 2),
        )
        for n in range(50)
    ]
    await publish_many(client, sent)
    async with asyncio.timeout(5):
        for one in sent:
            message = await heard.next_msg()
            assert (message.subject, message.data, message.reply) == (one.subject, one.payload, one.reply)
            assert message.headers == {"Nats-Msg-Id": one.headers.split()[1], "schema": "s/1"}
    await client.close()


async def test_nothing_is_written_for_no_messages(nats_server: EmbeddedNats) -> None:
    client = await nats.connect(nats_server.service_url)
    await publish_many(client, [])
    await client.flush()
    await client.close()
