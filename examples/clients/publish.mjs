// Publish a goal from Node and follow it to its end.
//
// node publish.mjs nats://user:password@host:4222 "What I want, or a whole goal as JSON"
import { randomUUID } from "node:crypto";
import { connect } from "@nats-io/transport-node";

const [url, text] = process.argv.slice(2);
const { host, username: user, password: pass } = new URL(url);
const client = await connect({ servers: host, user, pass });

const goal = { id: randomUUID(), ...(text.startsWith("{") ? JSON.parse(text) : { text }) };
const events = client.subscribe(`events.public.${goal.id}.>`);
client.publish("goals.submit", JSON.stringify(goal));
for await (const message of events) {
  const event = message.json();
  console.log(event.kind, JSON.stringify(event.data));
  if (["goal.finished", "goal.refused"].includes(event.kind)) break;
}
await client.close();
