// A fine-tuning script with OpenAI's npm package against OPENAI_BASE_URL. Prints what it found as JSON.
// Arguments: training file, validation file, a succeeded job.
import fs from "node:fs";
import OpenAI from "openai";

const [training, validation, finished] = process.argv.slice(2);
const client = new OpenAI({ adminAPIKey: process.env.OPENAI_API_KEY, maxRetries: 0, timeout: 60_000 });
const { jobs, checkpoints, alpha } = client.fineTuning;
const called = new Set();
const known = [];
for (const [place, resource] of Object.entries({
  files: client.files,
  jobs,
  "jobs.checkpoints": jobs.checkpoints,
  "checkpoints.permissions": checkpoints.permissions,
  "alpha.graders": alpha.graders,
})) {
  for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(resource))) {
    if (name === "constructor") continue;
    const method = resource[name].bind(resource);
    known.push(`${place}.${name}`);
    resource[name] = (...args) => {
      called.add(`${place}.${name}`);
      return method(...args);
    };
  }
}

const refused = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return { status: error.status, message: error.message, param: error.param, code: error.code };
  }
  throw new Error("it was not refused");
};
const until = async (id, condition) => {
  for (let tries = 0; tries < 600; tries++) {
    const job = await jobs.retrieve(id);
    if (condition(job)) return job;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`${id} did not come so far`);
};
const all = async (pages) => {
  const found = [];
  for await (const one of await pages) found.push(one);
  return found;
};

const found = {};
const train = await client.files.create({ file: fs.createReadStream(training), purpose: "fine-tune" });
const valid = await client.files.create({ file: fs.createReadStream(validation), purpose: "fine-tune" });
if (client.files.waitForProcessing) await client.files.waitForProcessing(train.id);
found.bytes = (await client.files.retrieve(train.id)).bytes;
found.listed = (await all(client.files.list({ limit: 1 }))).map((file) => file.id).includes(train.id);

const created = await jobs.create({
  model: "turnloom/tiny-qwen3",
  training_file: train.id,
  validation_file: valid.id,
  suffix: "node",
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 20, batch_size: 8 } } },
  turnloom: { hyperparameters: { lora_rank: 8 } },
});
await until(created.id, (job) => job.turnloom.step > 0);
await jobs.pause(created.id);
found.paused = (await until(created.id, (job) => job.turnloom.state === "PAUSED")).status;
found.resumed = (await jobs.resume(created.id)).status;
found.cancelled = (await jobs.cancel(created.id)).status;
found.jobs = (await all(jobs.list({ limit: 1 }))).map((job) => job.id).includes(finished);

const events = await all(jobs.listEvents(finished, { limit: 7 }));
found.events = events.map((event) => event.id);
found.metrics = events.filter((event) => event.type === "metrics").length;
const saved = await all(jobs.checkpoints.list(finished, { limit: 1 }));
found.checkpoints = saved.map((one) => one.step_number);
const done = await jobs.retrieve(finished);
found.results = await (await client.files.content(done.result_files[0])).text();

const name = saved[0].fine_tuned_model_checkpoint;
const { permissions } = checkpoints;
found.permissions = (await all(permissions.list(name))).length + (await permissions.retrieve(name)).data.length;
found.sharing = await refused(permissions.create(name, { project_ids: ["p"] }));
found.unsharing = await refused(permissions.delete("x", { fine_tuned_model_checkpoint: name }));
const grader = { type: "string_check", name: "g", input: "a", reference: "a", operation: "eq" };
found.graders = [
  await refused(alpha.graders.run({ grader, model_sample: "a" })),
  await refused(alpha.graders.validate({ grader })),
];
found.malformed = await refused(
  client.files.create({ file: new File(["{}\n"], "bad.jsonl"), purpose: "fine-tune" }),
);
found.deleted = [(await client.files.delete(train.id)).deleted, (await client.files.delete(valid.id)).deleted];
found.missed = known.filter((method) => !called.has(method));
console.log(JSON.stringify(found));
