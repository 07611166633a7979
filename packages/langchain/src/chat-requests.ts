/** Requests of a search to a chat model: settings that the class takes at construction only, and siblings joined by `n`. */
import type { ThoughtDecodeOptions, ThoughtFormat } from "@deftree/search";
import type { BaseChatModel, BaseChatModelCallOptions } from "@langchain/core/language_models/chat_models";
import type { AIMessage, AIMessageChunk, BaseMessage } from "@langchain/core/messages";

/** Settings of one request. Integrations read what they know of them. */
export interface RequestSettings extends Pick<ThoughtDecodeOptions, "temperature" | "topK" | "topP" | "minP"> {
  maxTokens: number;
  /** Answers to one prompt. */
  n?: number;
  logprobs?: boolean;
  topLogprobs?: number;
  /** Further fields of the request. */
  modelKwargs?: Record<string, unknown>;
}

interface Answer {
  message: AIMessage;
  end: AnswerEnd;
  /** Generated tokens, as far as the model tells: of several answers in one request a share by their length. */
  tokens: number;
  /** Of the answers of one request the first: what the prompt cost is booked once. */
  isFirst: boolean;
}

/** How an answer ended, where the server tells: vLLM by `stop_reason`, SGLang by `matched_stop`. */
export interface AnswerEnd {
  isKnown: boolean;
  /** The answer begins with the beginning that it goes on with: llama.cpp's server gives that back. */
  echoes: boolean;
  /** Undefined: the model ended its answer by itself. */
  stopString?: string;
}

/** Keeps inner calls out of LangGraph's message streams. */
const tags = ["nostream"];

export class ChatRequests {
  readonly #configured = new Map<string, BaseChatModel>();
  /** By the signal that ends them, so that a search that is aborted takes no other's answers along. */
  readonly #groups = new Map<AbortSignal | undefined, Map<string, Group>>();

  /** Answers that the server gives to one request: fewer once it refused more. */
  #mostAnswers = Number.POSITIVE_INFINITY;

  constructor(
    private readonly chat: BaseChatModel,
    private readonly joinsSiblings: boolean,
    /** Fields of a request that goes on with a last assistant message. */
    private readonly continuation?: Record<string, unknown>,
  ) {}

  /** One answer. Requests of the same turn that differ in their seed only are one request with `n` answers. */
  ask(messages: BaseMessage[], options: ThoughtDecodeOptions): Promise<Answer> {
    const settings = this.#settingsOf(messages, options);
    const said = messages.map(({ type, text }) => [type, text]);
    const key = JSON.stringify([said, settings, options.stop, options.format]);
    const groups = this.#groups.get(options.signal) ?? new Map<string, Group>();
    const open = this.joinsSiblings ? groups.get(key) : undefined;
    const group = open ?? { messages, settings, options, waiting: [] };
    if (open === undefined) {
      groups.set(key, group);
      this.#groups.set(options.signal, groups);
      queueMicrotask(() => {
        this.#groups.delete(options.signal);
        void this.#send(group);
      });
    }
    return new Promise((resolve, reject) => group.waiting.push({ resolve, reject, seed: options.seed }));
  }

  /** One answer, piece by piece. */
  stream(messages: BaseMessage[], options: ThoughtDecodeOptions): Promise<AsyncIterable<AIMessageChunk>> {
    const settings = this.#settingsOf(messages, options);
    return this.configured(settings).stream(messages, this.#callOptions(options, settings));
  }

  /** The chat model with these settings: many integrations take them at construction, and ignore them in a call. */
  configured(settings: RequestSettings): BaseChatModel {
    const key = JSON.stringify(settings);
    const known = this.#configured.get(key);
    if (known !== undefined) return known;
    const { fields, lc_kwargs, lc_serializable } = this.chat as BaseChatModel & { fields?: Made };
    const made: Made | undefined = fields ?? (lc_serializable ? lc_kwargs : undefined);
    const Chat = this.chat.constructor as new (fields: object) => BaseChatModel;
    // Chat models of LangChain's packages can be made again of what they were made of; others get the call options only.
    const chat =
      made === undefined
        ? this.chat
        : new Chat({
            ...{ ...made, ...settings, numPredict: settings.maxTokens, __includeRawResponse: true },
            modelKwargs: { ...made.modelKwargs, ...settings.modelKwargs },
          });
    this.#configured.set(key, chat);
    return chat;
  }

  #settingsOf(messages: readonly BaseMessage[], options: ThoughtDecodeOptions): RequestSettings {
    const { temperature, topK, topP, minP, maxTokens } = options;
    const modelKwargs = messages.at(-1)?.type === "ai" ? this.continuation : undefined;
    const settings = { temperature, topK, topP, minP, maxTokens, modelKwargs };
    return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined)) as typeof settings;
  }

  #callOptions(
    { stop, signal, seed, format }: ThoughtDecodeOptions,
    settings: RequestSettings,
  ): BaseChatModelCallOptions {
    const { modelKwargs: _, ...known } = settings;
    const { maxTokens, topP } = known;
    return {
      ...{ tags, stop, seed, ...known },
      // Both spellings are in use.
      ...{ max_tokens: maxTokens, top_p: topP },
      // A signal of its own for each request: LangChain and its clients add listeners to it, and searches have many requests.
      ...(signal && { signal: AbortSignal.any([signal]) }),
      ...(format && { response_format: responseFormat(format, this.chat) }),
    } as BaseChatModelCallOptions;
  }

  async #send({ messages, settings, options, waiting: all }: Group): Promise<void> {
    const waiting = all.slice(0, this.#mostAnswers);
    if (waiting.length < all.length) {
      void this.#send({ messages, settings, options, waiting: all.slice(waiting.length) });
    }
    const n = waiting.length;
    const sent = n === 1 ? settings : { ...settings, n };
    try {
      const call = this.#callOptions({ ...options, seed: waiting[0]!.seed }, sent);
      const { generations } = await this.configured(sent).generate([messages], call);
      const answers = generations[0]!
        .slice(0, n)
        .map((generation) => (generation as unknown as { message: AIMessage }).message);
      if (answers.length === 0) throw new Error("the chat model gave no answer");
      const tokens = countTokens(answers, sent.maxTokens);
      answers.forEach((message, i) => {
        waiting[i]!.resolve({ message, end: takeEnd(message, i), tokens: tokens[i]!, isFirst: i === 0 });
      });
      // A server may give fewer answers than asked for, or one whatever is asked.
      for (const rest of waiting.slice(answers.length))
        void this.#send({ messages, settings, options, waiting: [rest] });
    } catch (error) {
      if (n > 1 && refusesCount(error)) {
        // llama.cpp's server takes no `n` beyond its slots.
        this.#mostAnswers = Math.min(this.#mostAnswers, Math.floor(n / 2));
        void this.#send({ messages, settings, options, waiting });
      } else for (const { reject } of waiting) reject(error);
    }
  }
}

/** What a chat model was made of. */
interface Made {
  modelKwargs?: Record<string, unknown>;
}

interface Group {
  messages: BaseMessage[];
  settings: RequestSettings;
  options: ThoughtDecodeOptions;
  waiting: { resolve(answer: Answer): void; reject(error: unknown): void; seed: number | undefined }[];
}

/** @throws TypeError where nothing makes the model keep to the format. */
function responseFormat(format: ThoughtFormat, chat: BaseChatModel): object {
  if ("regex" in format) {
    throw new TypeError(`${chat.getName()} cannot keep a text to a regular expression: chat models take JSON schemas`);
  }
  if (!(chat.callKeys as string[]).includes("response_format")) {
    throw new TypeError(`${chat.getName()} takes no response_format, so it cannot keep a text to a JSON schema`);
  }
  return { type: "json_schema", json_schema: { name: "thought", schema: format.jsonSchema, strict: true } };
}

/** Takes the server's own response off a message of ChatOpenAI, and reads from it what LangChain leaves out. */
export function takeEnd(message: AIMessage | AIMessageChunk, choice = 0): AnswerEnd {
  const { __raw_response: raw, ...others } = message.additional_kwargs as { __raw_response?: RawResponse };
  message.additional_kwargs = others;
  const { stop_reason, matched_stop } = raw?.choices?.[choice] ?? {};
  const reason = stop_reason === undefined ? matched_stop : stop_reason;
  const echoes = isLlamaCpp(raw);
  if (reason === undefined) return { isKnown: false, echoes };
  return { isKnown: true, echoes, ...(typeof reason === "string" && { stopString: reason }) };
}

/** "400 Field 'n': Value must be between ..." */
function refusesCount(error: unknown): boolean {
  const { status, message = "" } = (error ?? {}) as { status?: number; message?: string };
  return status === 400 && /['"`]n['"`]/.test(message);
}

/** Its fingerprint is its build, "b6543-0a1b2c3d". */
function isLlamaCpp(raw: RawResponse | undefined): boolean {
  return /^b\d+-/.test(raw?.system_fingerprint ?? "");
}

interface RawResponse {
  system_fingerprint?: string | null;
  choices?: { stop_reason?: string | number | null; matched_stop?: string | number | null }[];
}

/**
 * The tokens of each answer of one request, judged by its length; the sum is what the server says. llama.cpp's server says the
 * tokens of the first answer alone, whatever `n` was.
 */
function countTokens(answers: readonly AIMessage[], maxTokens: number): number[] {
  const [first] = answers;
  const counted = first!.usage_metadata?.output_tokens ?? 0;
  const raw = first!.additional_kwargs.__raw_response as RawResponse | undefined;
  if (answers.length === 1 || !isLlamaCpp(raw)) return shares(answers, counted);
  const perLetter = counted / (first!.text.length + 1);
  return answers.map(({ text, response_metadata }, i) => {
    if (i === 0) return counted;
    const guessed = Math.round(perLetter * (text.length + 1));
    return response_metadata.finish_reason === "length" ? maxTokens : Math.min(maxTokens, Math.max(1, guessed));
  });
}

function shares(answers: readonly AIMessage[], total: number): number[] {
  const lengths = answers.map(({ text }) => text.length + 1);
  const sum = lengths.reduce((a, b) => a + b, 0);
  let seen = 0;
  let given = 0;
  return lengths.map((length) => {
    seen += length;
    const share = Math.round((total * seen) / sum) - given;
    given += share;
    return share;
  });
}
