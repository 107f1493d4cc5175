// The official Node client against a gateway. Prints one JSON line per check: {"name", "error"}.
// usage: node openai.cjs '{"base": "http://…/v1", "key": "…", "model": "…"}'
"use strict";

const assert = require("node:assert/strict");
const OpenAI = require("openai").default;
const { zodResponseFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const { base, key, model } = JSON.parse(process.argv[2]);
const options = { baseURL: base, apiKey: key, maxRetries: 0, timeout: 30_000 };
const client = new OpenAI(options);

const messages = [{ role: "user", content: "hello there" }];
const callTool = [{ role: "user", content: "please call tool now" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const Place = z.object({ city: z.string(), people: z.number().int() });
const failing = (how) => ({ headers: { "x-sim-fail": how } });

async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
const create = (more, request) => client.chat.completions.create({ model, messages, ...more }, request);

const checks = {
  async chat() {
    const answer = await create({ max_tokens: 9 });
    assert.equal(answer.model, model);
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.match(answer.choices[0].message.content, /simulated/);
    assert.equal(answer.usage.completion_tokens, 9);
  },

  async stream() {
    const whole = await create({});
    const plain = await all(create({ stream: true }));
    assert.equal(textOf(plain), whole.choices[0].message.content);
    assert(plain.length > 8 && plain.every((chunk) => chunk.choices.length === 1 && !chunk.usage));
    const counted = await all(create({ stream: true, stream_options: { include_usage: true } }));
    assert.equal(textOf(counted), whole.choices[0].message.content);
    assert.deepEqual(counted.at(-1).choices, []);
    assert.deepEqual(counted.at(-1).usage, whole.usage);
  },

  async tools() {
    const choice = (await create({ messages: callTool, tools })).choices[0];
    assert.equal(choice.finish_reason, "tool_calls");
    assert.equal(choice.message.tool_calls[0].function.name, "weather");
    const runner = client.chat.completions.stream({ model, messages: callTool, tools });
    const streamed = (await runner.finalChatCompletion()).choices[0];
    assert.equal(streamed.finish_reason, "tool_calls");
    const call = streamed.message.tool_calls[0];
    assert.equal(call.function.arguments, choice.message.tool_calls[0].function.arguments);
    assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
  },

  async structuredOutput() {
    const response_format = zodResponseFormat(Place, "place");
    const parsed = await client.chat.completions.parse({ model, messages, response_format });
    Place.parse(parsed.choices[0].message.parsed);
  },

  async completions() {
    const asked = { model, prompt: "once upon a time", max_tokens: 6 };
    const whole = await client.completions.create(asked);
    const chunks = await all(client.completions.create({ ...asked, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
  },

  async embeddings() {
    const input = ["one", "two words"];
    const given = await client.embeddings.create({ model, input, dimensions: 16 });
    const floats = await client.embeddings.create({ model, input, dimensions: 16, encoding_format: "float" });
    for (const [at, item] of given.data.entries()) {
      assert.equal(item.embedding.length, 16);
      item.embedding.forEach((one, i) => assert(Math.abs(one - floats.data[at].embedding[i]) < 1e-6));
    }
  },

  async models() {
    assert((await all(client.models.list())).some((item) => item.id === model));
    const found = await client.models.retrieve(model);
    assert.deepEqual([found.id, found.owned_by], [model, "nebula"]);
    await assert.rejects(client.models.retrieve("org/none"), OpenAI.NotFoundError);
  },

  async errors() {
    const stranger = new OpenAI({ ...options, apiKey: "nbtok_wrong" });
    for (const stream of [false, true]) {
      const refused = async (asked, kind, status, code) => {
        const error = await asked.then(() => assert.fail("it was answered"), (error) => error);
        assert(error instanceof kind, `${error} is no ${kind.name}`);
        assert.equal(error.status, status);
        if (code) assert.equal(error.code, code);
        assert(error.requestID, "an error carries its request id");
      };
      const asked = { model, messages, stream };
      const wrong = stranger.chat.completions.create(asked);
      await refused(wrong, OpenAI.AuthenticationError, 401, "invalid_api_key");
      await refused(create({ stream, model: "none" }), OpenAI.NotFoundError, 404, "model_not_found");
      await refused(create({ stream, model: 5 }), OpenAI.BadRequestError, 400, "missing_required_parameter");
      await refused(create({ stream }, failing("error-429")), OpenAI.RateLimitError, 429);
      await refused(create({ stream }, failing("error-500")), OpenAI.InternalServerError, 500);
    }
  },

  async brokenStreams() {
    for (const how of ["die-mid-stream:4", "cut-short:4", "error-mid-stream:4"]) {
      await assert.rejects(all(create({ stream: true }, failing(how))), OpenAI.APIError, how);
    }
  },

  async requestIds() {
    assert.equal((await create({}))._request_id.length, 36);
    const named = await create({}, { headers: { "x-request-id": "mine.1" } });
    assert.equal(named._request_id, "mine.1");
  },
};

(async () => {
  for (const [name, check] of Object.entries(checks)) {
    const error = await check().then(() => null, (error) => String(error.stack ?? error));
    console.log(JSON.stringify({ name, error }));
  }
})();
