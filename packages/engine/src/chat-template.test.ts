import { Template } from "@huggingface/jinja";
import { describe, expect, it, onTestFinished } from "vitest";
import { tinyTokenizer } from "../test/tiny-tokenizer.js";
import { ChatTemplate } from "./chat-template.js";
import type { ChatTurn } from "./engine-types.js";
import { ModelTokenizer } from "./tokenizer.js";

const extraTokens = ["<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"];

/** The tiny tokenizer with the special tokens of all families. */
function testTokenizer(bos: string, eos: string): ModelTokenizer {
  const tokenizerJson = tinyTokenizer() as { added_tokens: { id: number; content: string; special: boolean }[] };
  extraTokens.forEach((content, index) => {
    tokenizerJson.added_tokens.push({ id: 300 + index, content, special: true });
  });
  const id = (content: string) => tokenizerJson.added_tokens.find((token) => token.content === content)!.id;
  const source = {
    file: "tokenizer.json",
    tokenizerJson: tokenizerJson as never,
    eosTokens: [id(eos)],
    bosToken: id(bos),
    addBosToken: false,
  };
  return new ModelTokenizer(source, 400);
}

const chatMl = (defaultSystem: string) =>
  `{% for message in messages %}${defaultSystem}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}` +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const llama3 =
  "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}";

/** Families known without Jinja, as their model cards spell the templates. */
const families: Record<string, { template: string; bos: string; eos: string }> = {
  ChatML: { template: chatMl(""), bos: "<|im_start|>", eos: "<|im_end|>" },
  "ChatML with dots and double quotes": {
    template:
      '{%- for message in messages -%}\n{{ "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>\\n" }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n{{ "<|im_start|>assistant\\n" }}\n{%- endif -%}',
    bos: "<|im_start|>",
    eos: "<|im_end|>",
  },
  SmolLM2: {
    template: chatMl(
      "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}",
    ),
    bos: "<|im_start|>",
    eos: "<|im_end|>",
  },
  "Llama 3": {
    template: `${llama3}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}`,
    bos: "<s>",
    eos: "<|eot_id|>",
  },
  "Llama 3, first release": {
    template: `${llama3}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}`,
    bos: "<s>",
    eos: "<|eot_id|>",
  },
  "Llama 2": {
    template:
      "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    bos: "<s>",
    eos: "</s>",
  },
  "Zephyr, TinyLlama": {
    template:
      "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    bos: "<s>",
    eos: "</s>",
  },
};

const user = (content: string): ChatTurn => ({ role: "user", content });
const assistant = (content: string): ChatTurn => ({ role: "assistant", content });
const system = (content: string): ChatTurn => ({ role: "system", content });

const conversations: Record<string, ChatTurn[]> = {
  "one turn": [user("Hello")],
  "white space around": [user("  Hello \n")],
  "with system": [system("Be brief. "), user(" Why?"), assistant("Because.\n"), user("Really? ")],
  "without system": [user("1"), assistant("2"), user("3")],
  "empty texts": [user(""), assistant(""), user("x")],
};

function chatTemplate(source: string, tokenizer: ModelTokenizer): ChatTemplate {
  const template = new ChatTemplate(source, tokenizer);
  onTestFinished(() => template.close());
  return template;
}

describe("known chat formats", () => {
  for (const [name, { template, bos, eos }] of Object.entries(families)) {
    for (const [label, turns] of Object.entries(conversations)) {
      for (const prompt of [true, false]) {
        it(`${name}, ${label}, ${prompt ? "with" : "without"} generation prompt: as Jinja renders it`, () => {
          const format = chatTemplate(template, testTokenizer(bos, eos));
          expect(format.isKnownFormat).toBe(true);
          const rendered = new Template(template).render({
            messages: turns,
            add_generation_prompt: prompt,
            bos_token: bos,
            eos_token: eos,
          });
          const text = format.segments(turns, prompt).map((segment) => segment.text);
          expect(text.join("")).toBe(rendered);
        });
      }
    }
  }

  it("takes a template that deviates for an unknown one", () => {
    const tokenizer = testTokenizer("<s>", "</s>");
    expect(chatTemplate(chatMl("{{ 'x' }}"), tokenizer).isKnownFormat).toBe(false);
    expect(chatTemplate(`${chatMl("")}{{ tools }}`, tokenizer).isKnownFormat).toBe(false);
  });

  it("refuses turns that do not alternate where the family wants it", () => {
    const { template, bos, eos } = families["Llama 2"]!;
    const format = chatTemplate(template, testTokenizer(bos, eos));
    expect(() => format.segments([user("a"), user("b")], true)).toThrow(/alternate/);
  });
});

/** Not a known format, so that Jinja renders it. */
const jinjaChat = (content: string) =>
  `{% for message in messages %}{{ '<|im_start|>' + message['role'] + ':' + ${content} + '<|im_end|>' }}{% endfor %}`;

describe("templates by Jinja", () => {
  const tokenizer = testTokenizer("<s>", "<|im_end|>");
  const [start, end] = [1, 2];

  it("parses the template's special tokens and not the users'", () => {
    const format = chatTemplate(jinjaChat("message['content']"), tokenizer);
    expect(format.isKnownFormat).toBe(false);
    const tokens = format.encode([user("x<|im_end|>y")], false);
    expect(tokens).toEqual([start, ...tokenizer.encode("user:x<|im_end|>y"), end]);
    expect(tokens.filter((token) => token === end)).toHaveLength(1);
  });

  it("follows a template that trims", () => {
    const format = chatTemplate(jinjaChat("message['content'] | trim"), tokenizer);
    expect(format.encode([user("  x<|im_end|> ")], false)).toEqual([
      start,
      ...tokenizer.encode("user:x<|im_end|>"),
      end,
    ]);
  });

  it("takes other changes whole, and refuses special tokens in them", () => {
    const format = chatTemplate(jinjaChat("message['content'] | upper"), tokenizer);
    expect(format.encode([user("abc")], false)).toEqual([start, ...tokenizer.encode("user:ABC"), end]);
    const keepsTail = chatTemplate(jinjaChat("message['content'].split('|')[-1]"), tokenizer);
    expect(keepsTail.encode([user("a|b")], false)).toEqual([start, ...tokenizer.encode("user:b"), end]);
    const doubles = chatTemplate(jinjaChat("message['content'] + message['content'] | upper"), tokenizer);
    expect(() => doubles.encode([user("a<|im_end|>")], false)).toThrow(
      expect.objectContaining({ code: "E_BAD_ARGUMENT" }),
    );
  });

  it("reports what the template raises", () => {
    const format = chatTemplate("{{ raise_exception('only one turn, please') }}", tokenizer);
    expect(() => format.encode([user("a")], true)).toThrow(/only one turn, please/);
  });

  it("reports a template that does not parse", () => {
    const format = chatTemplate("{% for %}", tokenizer);
    expect(() => format.encode([user("a")], true)).toThrow(expect.objectContaining({ code: "E_BAD_MODEL" }));
  });

  it("ends templates that loop, recurse or allocate without bound", () => {
    const bombs = [
      "{% for i in range(100000000) %}{{ i }}{% endfor %}",
      "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    ];
    for (const bomb of bombs) {
      const format = chatTemplate(bomb, tokenizer);
      expect(() => format.encode([user("a")], true)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^E_BAD_/) }),
      );
    }
  });

  it("refuses output far longer than the conversation", () => {
    const format = chatTemplate("{% for i in range(40000) %}{{ 'xxxxxxxxxx' }}{% endfor %}", tokenizer);
    expect(() => format.encode([user("a")], true)).toThrow(/wrote 400000 characters/);
  });

  it("refuses a template above 64 KiB", () => {
    expect(() => new ChatTemplate("x".repeat(70_000), tokenizer)).toThrow(
      expect.objectContaining({ code: "E_BAD_MODEL" }),
    );
  });
});
