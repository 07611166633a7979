/**
 * The chat formats of known model families, written without Jinja. A family is recognised by its whole template, not by
 * a marker in it: whatever deviates (tools, dates, other defaults) is rendered by Jinja instead.
 */
import type { ChatTurn } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import type { TextSegment } from "./tokenizer.js";

interface ChatFormatInput {
  turns: readonly ChatTurn[];
  addGenerationPrompt: boolean;
  bosText: string;
  eosText: string;
}

export type ChatFormat = (input: ChatFormatInput) => TextSegment[];

const own = (text: string): TextSegment => ({ text, trusted: true });
const users = (text: string): TextSegment => ({ text, trusted: false });

/** `<|im_start|>role\ncontent<|im_end|>\n` (ChatML; SmolLM2, mini). `defaultSystem` stands first where there is no system turn. */
function chatMl(defaultSystem: string | undefined): ChatFormat {
  return ({ turns, addGenerationPrompt }) => {
    const segments: TextSegment[] = [];
    if (defaultSystem !== undefined && turns[0]?.role !== "system") {
      segments.push(own(`<|im_start|>system\n${defaultSystem}<|im_end|>\n`));
    }
    for (const { role, content } of turns) {
      segments.push(own(`<|im_start|>${role}\n`), users(content), own("<|im_end|>\n"));
    }
    if (addGenerationPrompt) segments.push(own("<|im_start|>assistant\n"));
    return segments;
  };
}

/** Llama 3 Instruct. The template of its first release always ends with the assistant's header. */
function llama3(alwaysPrompts: boolean): ChatFormat {
  return ({ turns, addGenerationPrompt, bosText }) => {
    const header = (role: string) => own(`<|start_header_id|>${role}<|end_header_id|>\n\n`);
    const segments = turns.flatMap(({ role, content }, index) => [
      own(index === 0 ? bosText : ""),
      header(role),
      users(content.trim()),
      own("<|eot_id|>"),
    ]);
    if (addGenerationPrompt || alwaysPrompts) segments.push(header("assistant"));
    return segments;
  };
}

/** Llama 2 Chat: `<s>[INST] <<SYS>>\nsystem\n<</SYS>>\n\nuser [/INST] answer </s>`. */
const llama2: ChatFormat = ({ turns, bosText, eosText }) => {
  const system = turns[0]?.role === "system" ? turns[0].content : undefined;
  return turns.slice(system === undefined ? 0 : 1).flatMap(({ role, content }, index) => {
    if ((role === "user") !== (index % 2 === 0)) {
      throw new DeftreeError(
        "E_BAD_ARGUMENT",
        "This model's chat format wants turns that alternate user/assistant/user/assistant/...",
      );
    }
    if (role === "assistant") return [own(" "), users(content.trim()), own(` ${eosText}`)];
    if (role !== "user") return [];
    const opening = own(`${bosText}[INST] `);
    if (index > 0 || system === undefined) return [opening, users(content.trim()), own(" [/INST]")];
    return [
      opening,
      own("<<SYS>>\n"),
      users(system),
      own(content.trim() === "" ? "\n<</SYS>>" : "\n<</SYS>>\n\n"),
      users(content.trimEnd()),
      own(" [/INST]"),
    ];
  });
};

/** Zephyr and TinyLlama: `<|role|>\ncontent</s>\n`. */
const zephyr: ChatFormat = ({ turns, addGenerationPrompt, eosText }) => {
  const known = turns.filter(({ role }) => role !== "tool");
  const segments = known.flatMap(({ role, content }) => [own(`<|${role}|>\n`), users(content), own(`${eosText}\n`)]);
  if (addGenerationPrompt && turns.length > 0) segments.push(own("<|assistant|>\n"));
  return segments;
};

/** @returns undefined when the template is none of the known ones. */
export function knownChatFormat(template: string): ChatFormat | undefined {
  const canonical = canonicalTemplate(template);
  const chatMlMatch = chatMlTemplate.exec(canonical);
  if (chatMlMatch) return chatMl(chatMlMatch[1]?.replaceAll("\\n", "\n"));
  if (canonical === llama3Messages + llama3Prompt) return llama3(true);
  if (canonical === `${llama3Messages}{%ifadd_generation_prompt%}${llama3Prompt}{%endif%}`) return llama3(false);
  if (canonical === llama2Template) return llama2;
  if (canonical === zephyrTemplate) return zephyr;
  return undefined;
}

const chatMlTemplate = new RegExp(
  [
    "^(?:{%ifnotadd_generation_promptisdefined%}{%setadd_generation_prompt=false%}{%endif%})?",
    "{%formessageinmessages%}",
    "(?:{%ifloop.firstandmessages\\[0\\]\\['role'\\]!='system'%}{{'<\\|im_start\\|>system\\\\n([^'{}]*)<\\|im_end\\|>\\\\n'}}{%endif%})?",
    "{{'<\\|im_start\\|>'\\+message\\['role'\\]\\+'\\\\n'\\+message\\['content'\\]\\+'<\\|im_end\\|>\\\\n'}}{%endfor%}",
    "{%ifadd_generation_prompt%}{{'<\\|im_start\\|>assistant\\\\n'}}{%endif%}$",
  ].join(""),
);

const llama3Messages =
  "{%setloop_messages=messages%}{%formessageinloop_messages%}" +
  "{%setcontent='<|start_header_id|>'+message['role']+'<|end_header_id|>\\n\\n'+message['content']|trim+'<|eot_id|>'%}" +
  "{%ifloop.index0==0%}{%setcontent=bos_token+content%}{%endif%}{{content}}{%endfor%}";
const llama3Prompt = "{{'<|start_header_id|>assistant<|end_header_id|>\\n\\n'}}";

const llama2Template =
  "{%ifmessages[0]['role']=='system'%}{%setloop_messages=messages[1:]%}{%setsystem_message=messages[0]['content']%}" +
  "{%else%}{%setloop_messages=messages%}{%setsystem_message=false%}{%endif%}{%formessageinloop_messages%}" +
  "{%if(message['role']=='user')!=(loop.index0%2==0)%}" +
  "{{raise_exception('Conversation roles must alternate user/assistant/user/assistant/...')}}{%endif%}" +
  "{%ifloop.index0==0andsystem_message!=false%}" +
  "{%setcontent='<<SYS>>\\n'+system_message+'\\n<</SYS>>\\n\\n'+message['content']%}{%else%}{%setcontent=message['content']%}{%endif%}" +
  "{%ifmessage['role']=='user'%}{{bos_token+'[INST] '+content.strip()+' [/INST]'}}" +
  "{%elifmessage['role']=='assistant'%}{{' '+content.strip()+' '+eos_token}}{%endif%}{%endfor%}";

const zephyrTemplate =
  "{%formessageinmessages%}{%ifmessage['role']=='user'%}{{'<|user|>\\n'+message['content']+eos_token}}\n" +
  "{%elifmessage['role']=='system'%}{{'<|system|>\\n'+message['content']+eos_token}}\n" +
  "{%elifmessage['role']=='assistant'%}{{'<|assistant|>\\n'+message['content']+eos_token}}\n{%endif%}" +
  "{%ifloop.lastandadd_generation_prompt%}{{'<|assistant|>'}}\n{%endif%}{%endfor%}";

/**
 * The same template in one spelling: without white space that Jinja drops (trim_blocks, lstrip_blocks and `-` are how chat
 * templates are rendered), single quotes, `message['role']` for `message.role`, and neighbouring literals joined.
 */
function canonicalTemplate(template: string): string {
  const trimmed = template
    .replace(/^[ \t]*(?=\{%)/gm, "")
    .replace(/\s*(\{[{%])-/g, "$1")
    .replace(/-([}%]\})\s*/g, "$1")
    .replace(/%\}\n/g, "%}")
    .replace(/\n$/, "");
  return trimmed.replace(/\{([{%])([\s\S]*?)([}%])\}/g, (_tag, open: string, inside: string, close: string) => {
    const spelling = inside.replace(/'([^'\\]|\\.)*'|"([^"\\]|\\.)*"|\s+/g, (piece) => {
      if (piece.trim() === "") return "";
      return `'${piece.slice(1, -1).replaceAll("\n", "\\n")}'`;
    });
    return `{${open}${spelling.replaceAll("'+'", "").replace(/\bmessage\.(role|content)\b/g, "message['$1']")}${close}}`;
  });
}
