// The story with the official TypeScript SDK 1. Started by itself, it asks the scene to play it.
import { spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const { GUARD_URL: url, GUARD_AGENT_KEY: key } = process.env;
if (!url) {
  const scene = fileURLToPath(new URL('../scene.py', import.meta.url));
  const words = [scene, 'hold = 50', process.execPath, fileURLToPath(import.meta.url)];
  process.exit(spawnSync('python3', words, { stdio: 'inherit' }).status ?? 1);
}

const client = new Client({ name: 'robot', version: '1.0.0' });
const headers = { Authorization: `Bearer ${key}` };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
await client.listTools();

for await (const line of createInterface({ input: process.stdin })) {
  const [name, args] = JSON.parse(line);
  const result = await client.callTool({ name, arguments: args });
  console.log(JSON.stringify(result.content.map(block => block.text).join('\n')));
}
await client.close();
