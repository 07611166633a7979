/** Makes a search visible to LangChain's callbacks: one nested run per thought, one custom event per search event. */
import type { SearchEvent, ThoughtId } from "@deftree/search";
import type { CallbackManagerForChainRun } from "@langchain/core/callbacks/manager";

const searchEventName = "deftree:search";

const serialized = { lc: 1, type: "not_implemented" as const, id: ["deftree", "thought"] };

/** Reads the search to its end; without a run to report to, leaves it to others. Without `payloads`, texts are left out. */
export async function traceThoughts<State, Answer>(
  events: AsyncIterable<SearchEvent<State, Answer>>,
  runManager: CallbackManagerForChainRun | undefined,
  payloads: boolean,
): Promise<void> {
  if (runManager === undefined) return;
  const runs = new Map<ThoughtId, CallbackManagerForChainRun>();
  const outputs = new Map<ThoughtId, Record<string, unknown>>();
  const children = runManager.getChild();

  const end = async (thought: ThoughtId, more: Record<string, unknown>) => {
    const run = runs.get(thought);
    runs.delete(thought);
    await run?.handleChainEnd({ ...outputs.get(thought), ...more });
  };
  try {
    for await (const event of events) {
      await children.handleCustomEvent?.(searchEventName, event, runManager.runId);
      switch (event.type) {
        case "thought:started": {
          const { thought, parent, depth } = event;
          const name = `thought ${thought}`;
          const start = children.handleChainStart.bind(children);
          runs.set(
            thought,
            await start(serialized, { parent, depth }, undefined, undefined, undefined, undefined, name),
          );
          break;
        }
        case "thought:finished":
          outputs.set(event.thought, {
            ...(payloads && { text: event.text }),
            tokens: event.tokens,
            finishReason: event.finishReason,
          });
          break;
        case "thought:scored":
          await end(event.thought, { score: event.score });
          break;
        case "thought:pruned":
          await end(event.thought, { pruned: event.reason });
          break;
      }
    }
    // An abort may leave thoughts that nobody scored.
    await Promise.all([...runs.keys()].map((thought) => end(thought, {})));
  } catch (error) {
    await Promise.all([...runs.values()].map((run) => run.handleChainError(error)));
    throw error;
  }
}
