/** LangChain messages as the turns of the engine's chat template. */
import { type ChatTurn, DeftreeError } from "@deftree/engine";
import { AIMessage, type BaseMessage } from "@langchain/core/messages";
import { renderToolCalls } from "./tool-prompt.js";

/** `requests`, where there are some, join the first system message, or become one. */
export function toChatTurns(
  messages: readonly BaseMessage[],
  requests: readonly (string | undefined)[] = [],
): ChatTurn[] {
  const turns = messages.map(toChatTurn);
  const added = requests.filter((request) => request !== undefined);
  if (added.length === 0) return turns;
  const hasSystem = turns[0]?.role === "system";
  const system = [...(hasSystem ? [turns[0]!.content] : []), ...added].join("\n\n");
  return [{ role: "system", content: system }, ...turns.slice(hasSystem ? 1 : 0)];
}

function toChatTurn(message: BaseMessage): ChatTurn {
  const content = textOf(message);
  switch (message.type) {
    case "system":
    case "developer":
      return { role: "system", content };
    case "ai":
      return { role: "assistant", content: content + renderToolCalls((message as AIMessage).tool_calls ?? []) };
    case "tool":
    case "function":
      return { role: "tool", content };
    default:
      return { role: "user", content };
  }
}

/** @throws DeftreeError E_BAD_ARGUMENT when the message holds anything but text. */
function textOf(message: BaseMessage): string {
  if (typeof message.content === "string") return message.content;
  return message.content
    .map((block) => {
      if (block.type === "text" && typeof block.text === "string") return block.text;
      // Parts of an assistant's turn that say nothing to the model again: its calls stand in `tool_calls`.
      if (AIMessage.isInstance(message)) return "";
      throw new DeftreeError(
        "E_BAD_ARGUMENT",
        `the model reads text only, the message has a block of type "${block.type}"`,
      );
    })
    .join("");
}
