/** A request as a command and as a program; the key comes from the environment of whoever runs them. */

// what the openai client's completions.create calls by name; it sends anything else as extra_body
const NAMED = ["model", "prompt", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "presence_penalty"];
NAMED.push("frequency_penalty");

/** A curl command for POSIX shells. @param {boolean} hasKey whether the service asks for one */
export function curl(request, url, hasKey) {
  const fields = Object.entries(request).map(([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  const quoted = `{\n${fields.join(",\n")}\n}`.replaceAll("'", String.raw`'\''`);
  const lines = [`curl -sS '${url}/completions'`, `-H 'Content-Type: application/json'`];
  if (hasKey) lines.push(`-H "Authorization: Bearer $XLAB_API_KEY"`);
  return `${lines.join(" \\\n  ")} \\\n  -d '${quoted}'\n`;
}

/** A program for the openai client. */
export function python(request, url, hasKey) {
  const named = Object.entries(request).filter(([name]) => NAMED.includes(name));
  const others = Object.entries(request).filter(([name]) => !NAMED.includes(name));
  const lines = named.map(([name, value]) => `    ${name}=${literal(value)},`);
  if (others.length) {
    const items = others.map(([name, value]) => `${literal(name)}: ${literal(value)}`);
    lines.push(`    extra_body={${items.join(", ")}},`);
  }
  return `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(url)}, api_key=${hasKey ? 'os.environ["XLAB_API_KEY"]' : '"none"'})
completion = client.completions.create(
${lines.join("\n")}
)
for choice in completion.choices:
    print(choice.text)
`;
}

/** Strings, numbers and lists are written in Python as in JSON. */
function literal(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return Array.isArray(value) ? `[${value.map(literal).join(", ")}]` : JSON.stringify(value);
}
