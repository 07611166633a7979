/** What a turn of JavaScript's event loop asks of the engine, submitted together. */
import { setImmediate } from "node:timers"; // the real one, whatever a test puts in place of the global
import type { NativeCommand, NativeEngine } from "./native-addon.js";
import { fromAddon, type StepDispatcher } from "./step-dispatcher.js";

/**
 * Collects commands until the turn ends, its promises included. So branches that start in one turn start in one step: they
 * share what they have in common, and which branches a step holds does not depend on when the engine's thread looked.
 */
export class CommandBatch {
  readonly #native: NativeEngine;
  readonly #dispatcher: StepDispatcher;
  #commands: NativeCommand[] = [];

  constructor(native: NativeEngine, dispatcher: StepDispatcher) {
    this.#native = native;
    this.#dispatcher = dispatcher;
  }

  add(commands: readonly NativeCommand[]): void {
    if (this.#commands.length === 0) setImmediate(() => this.flush());
    this.#commands.push(...commands);
  }

  /** Submits what there is now. What the addon refuses fails its own request and no other. */
  flush(): void {
    const commands = this.#commands;
    this.#commands = [];
    if (commands.length === 0 || this.#dispatcher.fatal) return;
    try {
      this.#native.submit(commands);
    } catch (cause) {
      if (commands.length > 1) for (const command of commands) this.#submitAlone(command);
      else this.#refuse(commands[0]!, cause);
    }
  }

  #submitAlone(command: NativeCommand): void {
    try {
      this.#native.submit([command]);
    } catch (cause) {
      this.#refuse(command, cause);
    }
  }

  #refuse(command: NativeCommand, cause: unknown): void {
    if ("request" in command) this.#dispatcher.fail(command.request, fromAddon(cause));
  }
}
