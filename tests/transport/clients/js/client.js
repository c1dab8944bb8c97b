// A client of the rate-limit service by grpc-js: asks what it is told to, and prints what it saw.
//
// Its standard input and output are those of ../go/main.go.
"use strict";

const grpc = require("@grpc/grpc-js");

const CONNECT_TIMEOUT_MS = 10_000;

const asBytes = (buffer) => buffer;

function ask(client, call) {
  const metadata = new grpc.Metadata();
  if (call.TextBytes) metadata.set("x-text", "v".repeat(call.TextBytes));
  if (call.BinaryBytes) metadata.set("x-bytes-bin", Buffer.alloc(call.BinaryBytes, 0xff));
  const options = { deadline: Date.now() + call.TimeoutMs };
  return new Promise((resolve) => {
    const pending = client.makeUnaryRequest(
      call.Path,
      asBytes,
      asBytes,
      Buffer.from(call.Message, "base64"),
      metadata,
      options,
      (error, answer) => {
        if (error) resolve(`${grpc.status[error.code]}: ${error.details}`);
        else resolve(`OK ${answer.toString("base64")}`);
      },
    );
    // Once the message is on its way.
    if (call.IsCancelled) setImmediate(() => setImmediate(() => pending.cancel()));
  });
}

async function askAll(client, call) {
  const answers = await Promise.all(Array.from({ length: call.Repeats }, () => ask(client, call)));
  const counts = {};
  for (const answer of answers) counts[answer] = (counts[answer] ?? 0) + 1;
  return counts;
}

function connect(address, isGzip) {
  // Compression is a choice of the whole client.
  const options = isGzip
    ? { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip }
    : {};
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), options);
  return new Promise((resolve, reject) => {
    client.waitForReady(Date.now() + CONNECT_TIMEOUT_MS, (error) => {
      if (error) reject(new Error(`${address}: no connection: ${error.message}`));
      else resolve(client);
    });
  });
}

async function readPlan() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString("utf-8"));
}

async function main() {
  const plan = await readPlan();
  const plain = await connect(plan.Address, false);
  const needsGzip = plan.Calls.some((call) => call.IsGzip);
  const gzip = needsGzip ? await connect(plan.Address, true) : null;
  const seen = {};
  for (const call of plan.Calls) {
    seen[call.Name] = await askAll(call.IsGzip ? gzip : plain, call);
  }
  plain.close();
  gzip?.close();
  process.stdout.write(JSON.stringify(seen));
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
