// A performer of lane `custom.words` in JavaScript: answers every task with the words its inputs hold.
//
// goalwright lane add custom.words --description "Counts the words of its inputs"
// node count_words.mjs nats://user:password@host:4222
import { createHash } from "node:crypto";
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const { host, username: user, password: pass } = new URL(process.argv[2]);
const client = await connect({ servers: host, user, pass });
const stream = jetstream(client);
const lane = await stream.consumers.get("WORK", "work-custom-words");

for (;;) {
  const message = await lane.next({ expires: 30_000 });
  if (message === null) continue; // nothing to do for 30 s
  const { goal_id, task_id, epoch, inputs, spec } = message.json();
  const words = Object.values(inputs).flatMap((ref) => ref.inline.split(/\s+/).filter(Boolean)).length;
  const inline = String(words);
  const sha256 = createHash("sha256").update(inline).digest("hex");
  const ref = { type: "text", media_type: "text/plain", size: inline.length, sha256, inline };
  const outputs = Object.fromEntries(spec.outputs.map(({ name }) => [name, { name, ...ref }]));
  const outcome = { goal_id, task_id, epoch, kind: "done", outputs, summary: `${words} words` };
  await stream.publish("outcomes.custom.words", JSON.stringify(outcome));
  message.ack(); // last: an outcome is never lost, and one that comes twice does no harm
}
