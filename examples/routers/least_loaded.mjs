// The worker with the fewest requests in flight, the first of equals: the protocol
// (docs/router-protocol.md) without an SDK. Run it with `node least_loaded.mjs`.

import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  let answer;
  if (question.op === "hello") {
    answer = { protocol: 2, name: "least_loaded.mjs" };
  } else {
    const absent = new Set(question.absent ?? []);
    let best = -1;
    question.inflight.forEach((inflight, worker) => {
      const isLess = best < 0 || inflight < question.inflight[best];
      if (!absent.has(worker) && isLess) best = worker;
    });
    answer = { worker: best };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
