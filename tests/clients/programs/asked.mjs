// What every client in JavaScript asks, and how it tells what it was answered.
export const BASE_URL = process.env.OPENAI_BASE_URL;
export const KEY = process.env.OPENAI_API_KEY;
export const MODEL = process.env.ASKED_MODEL;
export const PROMPT = process.env.ASKED_PROMPT;
export const MAX_TOKENS = Number(process.env.ASKED_TOKENS);
export const LONG = 100;
export const WEATHER = "How is the weather in Rome?";
export const PERSON = "Describe a person, as JSON.";
export const WEATHER_SCHEMA = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
export const TOOL = { type: "function", function: { name: "get_weather", parameters: WEATHER_SCHEMA } };
export const PERSON_SCHEMA = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 12 },
    age: { type: "integer", minimum: 0, maximum: 120 },
  },
  required: ["name", "age"],
  additionalProperties: false,
};

export function tell(answers) {
  process.stdout.write(JSON.stringify(answers));
}
