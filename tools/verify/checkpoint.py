"""Random checkpoints in the shapes of real models, written by transformers as sharded safetensors with a config.json.

Weights are normal numbers in bfloat16, of size 1/sqrt(in_features) in the linear layers and a little more in q and k.
Larger ones make a deep random model chaotic: bfloat16 then hides everything. With these, another token at one of 400
positions moves most rows of logits by more than the bound, twice bfloat16's own error (measured at 6 and 32 layers).
The embedding of the last token of the vocabulary is NaN: a branch of that token fills KV pages with NaN.
"""

import json
import math
import pathlib

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LLAMA3_ROPE = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

SHAPES = {
    "llama-3-8b": dict(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=16384, tie_word_embeddings=False,
        rope_parameters={"rope_theta": 500000.0, "rope_type": "default"}),
    "llama-3.2-1b": dict(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, tie_word_embeddings=True,
        rope_parameters=LLAMA3_ROPE),
    # Small enough for a CPU. The scaling starts within the prompt, so that it matters.
    "small": dict(
        vocab_size=2048, hidden_size=512, intermediate_size=1408, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=16384, tie_word_embeddings=False,
        rope_parameters=LLAMA3_ROPE | {"factor": 8.0, "original_max_position_embeddings": 128}),
    "small-tied-128": dict(
        vocab_size=2048, hidden_size=384, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=128, max_position_embeddings=16384, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}),
}


def nan_token(shape: str) -> int:
    """The token whose embedding is NaN."""
    return SHAPES[shape]["vocab_size"] - 1


@torch.no_grad()
def make_checkpoint(shape: str, folder: pathlib.Path, device: str, seed: int = 1) -> None:
    """Writes the checkpoint and a tokenizer that knows the 256 bytes; four shards or more, at most 4 GB each."""
    config = LlamaConfig(**SHAPES[shape], rms_norm_eps=1e-5, dtype=torch.bfloat16, bos_token_id=0, eos_token_id=1)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device=device)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(seed)
    num_bytes = 0
    for name, parameter in model.named_parameters():
        num_bytes += parameter.numel() * parameter.element_size()
        if parameter.dim() == 1:
            parameter.normal_(1, 0.1, generator=generator)
        elif "embed_tokens" in name:
            parameter.normal_(0, 0.05, generator=generator)
            parameter[-1].fill_(math.nan)
        else:
            gain = 1.2 if "q_proj" in name or "k_proj" in name else 1
            parameter.normal_(0, gain / math.sqrt(parameter.shape[1]), generator=generator)
    model.save_pretrained(folder, max_shard_size=min(4 * 10**9, num_bytes // 3))
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))


def byte_tokenizer() -> dict:
    """A byte-level tokenizer without merges: the loader wants one, the comparison uses token ids alone."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    pieces = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    return {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {piece: token for token, piece in enumerate(pieces)}, "merges": []},
    }
