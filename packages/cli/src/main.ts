#!/usr/bin/env node
import { DeftreeError } from "@deftree/engine";
import { Command } from "commander";
import { addBenchCommand } from "./commands/bench.js";
import { addChatCommand } from "./commands/chat.js";
import { addDemoCommand } from "./commands/demo.js";
import { addDoctorCommand } from "./commands/doctor.js";
import { addEvalCommand } from "./commands/eval.js";
import { addRunCommand } from "./commands/run.js";

const program = new Command("deftree")
  .description("Tree-of-Thoughts search on a local model, every branch decoded by one engine with DeFT tree attention")
  .showHelpAfterError("(deftree --help lists commands and options)");
addDemoCommand(program);
addRunCommand(program);
addEvalCommand(program);
addChatCommand(program);
addBenchCommand(program);
addDoctorCommand(program);

// The first Ctrl-C asks the command to end well (its AbortSignal); the second ends the process.
const interrupt = new AbortController();
process.on("SIGINT", () => {
  if (interrupt.signal.aborted) process.exit(130);
  interrupt.abort();
});
program.hook("preAction", (_, action) => {
  action.setOptionValue("signal", interrupt.signal);
});

// Who reads the output may have seen enough: `deftree bench decode | head`.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

try {
  await program.parseAsync();
  if (interrupt.signal.aborted) process.exitCode = 130;
} catch (error) {
  if (interrupt.signal.aborted) {
    process.exitCode = 130;
  } else if (DeftreeError.isInstance(error)) {
    process.stderr.write(`error: ${error.message} (${error.code})\n`);
    process.exitCode = 1;
  } else {
    throw error;
  }
}
