/**
 * Renders chat templates of model files, which are programs of strangers: in a worker with a small heap, and a time limit
 * after which it is ended. A template that loops or allocates without bound costs a typed error, never the process.
 */
import { createRequire } from "node:module";
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { DeftreeError } from "./errors.js";

const maxTemplateBytes = 64 << 10;
const maxHeapMb = 64;

/** Runs in the worker. Plain JavaScript in a string, so that bundling needs no second entry point. */
const workerSource = `
const { workerData } = require("node:worker_threads");
const { Template } = require(workerData.jinjaPath);
const { port, signal } = workerData;
let template;
port.on("message", ({ context, maxLength }) => {
  let reply;
  try {
    template ??= new Template(workerData.template);
    const text = template.render(context);
    reply = text.length <= maxLength ? { text } : { problem: "wrote " + text.length + " characters; at most " + maxLength + " are taken" };
  } catch (error) {
    reply = { problem: String(error && error.message).slice(0, 500), broken: template === undefined };
  }
  port.postMessage(reply);
  Atomics.store(signal, 0, 1);
  Atomics.notify(signal, 0);
});
`;

/** `broken`: the template does not even parse. */
type Reply = { text: string } | { problem: string; broken?: boolean };

export class JinjaSandbox {
  readonly #template: string;
  readonly #timeoutMs: number;
  #running: { worker: Worker; port: MessagePort; signal: Int32Array } | undefined;

  /** @throws E_BAD_MODEL for a template above 64 KiB. */
  constructor(template: string, timeoutMs = 2000) {
    const bytes = Buffer.byteLength(template);
    if (bytes > maxTemplateBytes) {
      throw new DeftreeError(
        "E_BAD_MODEL",
        `The chat template has ${bytes} bytes; at most ${maxTemplateBytes} are taken`,
        {
          figures: { bytes, maxTemplateBytes },
        },
      );
    }
    this.#template = template;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Waits for the worker: a render takes well under a millisecond, the first one some 50 ms.
   * @param maxLength most characters of the result.
   * @throws E_BAD_ARGUMENT when the template refuses the conversation, E_BAD_MODEL when it exceeds its limits.
   */
  render(context: Record<string, unknown>, maxLength: number): string {
    this.#running ??= this.#start();
    const { port, signal } = this.#running;
    Atomics.store(signal, 0, 0);
    port.postMessage({ context, maxLength });
    const outcome = Atomics.wait(signal, 0, 0, this.#timeoutMs);
    const reply = receiveMessageOnPort(port)?.message as Reply | undefined;
    if (!reply) {
      this.close();
      throw new DeftreeError(
        "E_BAD_MODEL",
        `The chat template did not end within ${this.#timeoutMs} ms and ${maxHeapMb} MB (${outcome}); it was stopped`,
        { figures: { timeoutMs: this.#timeoutMs, maxHeapMb } },
      );
    }
    if ("problem" in reply) {
      const code = reply.broken ? "E_BAD_MODEL" : "E_BAD_ARGUMENT";
      throw new DeftreeError(code, `The model's chat template fails: ${reply.problem}`);
    }
    return reply.text;
  }

  close(): void {
    this.#running?.port.close();
    this.#running?.worker.terminate();
    this.#running = undefined;
  }

  #start(): { worker: Worker; port: MessagePort; signal: Int32Array } {
    const signal = new Int32Array(new SharedArrayBuffer(4));
    const { port1: port, port2: workerPort } = new MessageChannel();
    const jinjaPath = createRequire(import.meta.url).resolve("@huggingface/jinja");
    const worker = new Worker(workerSource, {
      eval: true,
      workerData: { jinjaPath, template: this.#template, port: workerPort, signal },
      transferList: [workerPort],
      resourceLimits: { maxOldGenerationSizeMb: maxHeapMb, maxYoungGenerationSizeMb: 16, stackSizeMb: 2 },
      execArgv: [],
      env: {},
    });
    worker.on("error", () => {}); // out of memory: the render that waits reports it
    worker.unref();
    port.unref();
    return { worker, port, signal };
  }
}
