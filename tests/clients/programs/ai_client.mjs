// The AI SDK, with its provider for servers that speak OpenAI's dialect, and that for the Responses API.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, jsonSchema, streamText, tool } from "ai";
import {
  BASE_URL, KEY, LONG, MAX_TOKENS, MODEL, PERSON, PERSON_SCHEMA, PROMPT, WEATHER, WEATHER_SCHEMA, tell,
} from "./asked.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const served = createOpenAICompatible({
  name: "bmrt", baseURL: BASE_URL, apiKey: KEY, supportsStructuredOutputs: true,
});
const model = served(MODEL);
const asked = { model, temperature: 0, maxRetries: 0, maxOutputTokens: LONG };
const short = { ...asked, prompt: PROMPT, maxOutputTokens: MAX_TOKENS };

const chat = (await generateText(short)).text;
const stream = [];
for await (const piece of streamText(short).textStream) stream.push(piece);
const get_weather = tool({ description: "Weather of a city.", inputSchema: jsonSchema(WEATHER_SCHEMA) });
const { toolCalls } = await generateText({
  ...asked, prompt: WEATHER, tools: { get_weather }, toolChoice: "required",
});
const formed = await generateText({
  ...asked, prompt: PERSON, output: Output.object({ schema: jsonSchema(PERSON_SCHEMA) }),
});
const responses = createOpenAI({ baseURL: BASE_URL, apiKey: KEY });
const response = await generateText({ ...short, model: responses(MODEL) });
tell({
  chat,
  stream,
  call: [toolCalls[0].toolName, toolCalls[0].input],
  person: formed.output,
  response: response.text,
});
