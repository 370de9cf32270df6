// OpenAI's own client for JavaScript: chat, its stream, a call, a schema; and the Responses API.
import OpenAI from "openai";
import { PERSON, PROMPT, LONG, MAX_TOKENS, MODEL, TOOL, PERSON_SCHEMA, WEATHER, tell } from "./asked.mjs";

const client = new OpenAI({ maxRetries: 0 });
const ask = (text, more) =>
  client.chat.completions.create({
    model: MODEL,
    messages: [{ role: "user", content: text }],
    temperature: 0,
    max_tokens: MAX_TOKENS,
    ...more,
  });

const chat = (await ask(PROMPT)).choices[0].message.content;
const stream = [];
for await (const chunk of await ask(PROMPT, { stream: true })) {
  stream.push(chunk.choices[0]?.delta?.content ?? "");
}
const forced = { tools: [TOOL], tool_choice: "required", parallel_tool_calls: false, max_tokens: LONG };
const [call] = (await ask(WEATHER, forced)).choices[0].message.tool_calls;
const form = { type: "json_schema", json_schema: { name: "person", strict: true, schema: PERSON_SCHEMA } };
const person = (await ask(PERSON, { response_format: form, max_tokens: LONG })).choices[0].message.content;
const response = await client.responses.create({
  model: MODEL,
  input: PROMPT,
  temperature: 0,
  max_output_tokens: MAX_TOKENS,
});
tell({
  chat,
  stream,
  call: [call.function.name, JSON.parse(call.function.arguments)],
  person: JSON.parse(person),
  response: response.output_text,
});
