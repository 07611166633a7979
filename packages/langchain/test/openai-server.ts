/**
 * A server that speaks OpenAI's chat completions on loopback. Asked to sort digits it writes the next right one, or by a
 * given chance another, by seed and answer number, one token each; it continues a last assistant message. It streams,
 * gives log-probabilities, and fails as told.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface ChatRequest {
  messages: { role: string; content: string }[];
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  n?: number;
  stop?: string[];
  seed?: number;
  stream?: boolean;
  stream_options?: { include_usage?: boolean };
  logprobs?: boolean;
  top_logprobs?: number;
  response_format?: unknown;
  model: string;
}

export interface ServerOptions {
  errorRate?: number;
  /** Most answers to one request, whatever `n` says. */
  mostAnswers?: number;
  /** Answers a request in place of sorted digits. */
  reply?: (request: ChatRequest) => string | undefined;
  /** Tell what ended an answer, as vLLM does. */
  tellsStops?: boolean;
  /**
   * As llama.cpp's server: counts the first answer's tokens alone whatever `n` says, takes no `n` beyond its slots, and gives
   * back the beginning of an answer that it goes on with.
   */
  llamaCpp?: { slots: number };
  topLogprobs?: { token: string; logprob: number }[];
  /** Before an answer that is not streamed. */
  answerAfterMs?: number;
  /** Between two tokens of a stream. */
  pauseMs?: number;
}

interface Choice {
  text: string;
  tokens: string[];
  finishReason: "stop" | "length";
  stop?: string;
}

export class OpenAiServer {
  readonly requests: ChatRequest[] = [];
  /** Statuses of the next answers, before any proper one. */
  failures: number[] = [];
  /** Streams that their reader left before the end. */
  leftStreams = 0;
  generatedTokens = 0;
  readonly #server: Server;

  private constructor(readonly options: ServerOptions) {
    this.#server = createServer((request, response) => void this.#serve(request, response));
  }

  static async start(options: ServerOptions = {}): Promise<OpenAiServer> {
    const server = new OpenAiServer(options);
    await new Promise<void>((resolve) => server.#server.listen(0, "127.0.0.1", resolve));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/v1`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const piece of request) body += piece;
    const chat = JSON.parse(body) as ChatRequest;
    this.requests.push(chat);
    const { slots = Number.POSITIVE_INFINITY } = this.options.llamaCpp ?? {};
    const failure = this.failures.shift() ?? ((chat.n ?? 1) > slots ? 400 : undefined);
    if (request.url !== "/v1/chat/completions" || failure !== undefined) {
      const status = failure ?? 404;
      const reason = (chat.n ?? 1) > slots ? `Field 'n': Value must be at most ${slots}` : `status ${status} as told`;
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify({ error: { message: reason, type: "test", code: status } }));
      return;
    }
    const n = Math.min(chat.n ?? 1, this.options.mostAnswers ?? Number.POSITIVE_INFINITY);
    const choices = Array.from({ length: n }, (_, i) => this.#choice(chat, i));
    if (chat.stream) await this.#stream(chat, choices[0]!, response);
    else {
      await new Promise((resolve) => setTimeout(resolve, this.options.answerAfterMs ?? 0));
      this.#answer(chat, choices, response);
    }
  }

  #answer(chat: ChatRequest, choices: Choice[], response: ServerResponse): void {
    const generated = choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
    this.generatedTokens += generated;
    response.writeHead(200, { "content-type": "application/json" });
    response.end(
      JSON.stringify({
        ...{ id: "chat-1", object: "chat.completion", created: 1, model: chat.model },
        choices: choices.map(({ text, finishReason, stop }, index) => ({
          index,
          ...(this.options.tellsStops && { stop_reason: stop ?? null }),
          message: { role: "assistant", content: this.#echo(chat) + text },
          finish_reason: finishReason,
          logprobs: chat.logprobs ? { content: [this.#logprobs()] } : null,
        })),
        ...this.#fingerprint(),
        usage: usage(chat, this.options.llamaCpp ? choices[0]!.tokens.length : generated),
      }),
    );
  }

  async #stream(chat: ChatRequest, { tokens, finishReason, stop }: Choice, response: ServerResponse): Promise<void> {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (fields: object) => {
      const chunk = {
        id: "chat-1",
        object: "chat.completion.chunk",
        created: 1,
        model: chat.model,
        ...this.#fingerprint(),
        ...fields,
      };
      response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    };
    let generated = 0;
    let echo = this.#echo(chat);
    send({ choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] });
    for (const content of tokens) {
      if (response.destroyed || response.writableEnded) break;
      this.generatedTokens++;
      generated++;
      if (content !== "") send({ choices: [{ index: 0, delta: { content: echo + content }, finish_reason: null }] });
      echo = "";
      await new Promise((resolve) => setTimeout(resolve, this.options.pauseMs ?? 0));
    }
    if (response.destroyed) {
      this.leftStreams++;
      return;
    }
    const told = this.options.tellsStops && { stop_reason: stop ?? null };
    send({ choices: [{ index: 0, delta: {}, finish_reason: finishReason, ...told }] });
    if (chat.stream_options?.include_usage) send({ choices: [], usage: usage(chat, generated) });
    response.end("data: [DONE]\n\n");
  }

  #fingerprint() {
    return this.options.llamaCpp && { system_fingerprint: "b6543-0a1b2c3d" };
  }

  #echo({ messages }: ChatRequest): string {
    const last = messages.at(-1)!;
    return this.options.llamaCpp && last.role === "assistant" ? last.content : "";
  }

  #choice(chat: ChatRequest, index: number): Choice {
    const whole = this.options.reply?.(chat) ?? this.#sorted(chat, index);
    const tokens: string[] = [];
    let text = "";
    for (const token of whole) {
      if (tokens.length === (chat.max_tokens ?? 1000)) return { text, tokens, finishReason: "length" };
      const stop = chat.stop?.find((candidate) => (text + token).endsWith(candidate));
      if (stop !== undefined) {
        return { text: (text + token).slice(0, -stop.length), tokens: [...tokens, ""], finishReason: "stop", stop };
      }
      tokens.push(token);
      text += token;
    }
    if (tokens.length === (chat.max_tokens ?? 1000)) return { text, tokens, finishReason: "length" };
    return { text, tokens: [...tokens, ""], finishReason: "stop" };
  }

  #sorted({ messages, seed = 0, temperature = 1 }: ChatRequest, index: number): string {
    const last = messages.at(-1)!;
    const begun = last.role === "assistant" ? last.content : "";
    const digits = messages.find(({ role }) => role === "user")!.content.match(/\d+/)![0];
    return [...digits]
      .sort()
      .slice(begun.length)
      .map((digit, i) => {
        const noise = hash(seed * 31 + index * 7919 + begun.length + i);
        const isWrong = temperature > 0 && noise / 2 ** 32 < (this.options.errorRate ?? 0);
        return isWrong ? String((Number(digit) + 1 + (noise % 9)) % 10) : digit;
      })
      .join("");
  }

  #logprobs() {
    const top_logprobs = this.options.topLogprobs ?? [];
    return { token: top_logprobs[0]?.token ?? "", logprob: top_logprobs[0]?.logprob ?? 0, bytes: null, top_logprobs };
  }
}

function usage({ messages }: ChatRequest, generated: number) {
  const prompt = messages.reduce((sum, { content }) => sum + content.length, 0);
  return {
    ...{ prompt_tokens: prompt, completion_tokens: generated, total_tokens: prompt + generated },
    prompt_tokens_details: { cached_tokens: 0 },
  };
}

function hash(value: number): number {
  const mixed = Math.imul(value ^ (value >>> 15), 0x2c1b3c6d);
  const again = Math.imul(mixed ^ (mixed >>> 12), 0x297a2d39);
  return (again ^ (again >>> 15)) >>> 0;
}
