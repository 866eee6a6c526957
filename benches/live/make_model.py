#!/usr/bin/env python3
"""Writes a Llama model of random weights that vLLM can serve: make_model.py DIR [tiny|mid]

No downloads. The same arguments give the same model for a given version of torch. The
tokenizer knows one short word per token, all of them printable ASCII, so that every
token that is generated has text of its own.
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SIZES = {  # layers, hidden, heads, KV heads, inner
    "tiny": (2, 256, 4, 2, 512),
    "mid": (8, 512, 8, 4, 1408),
}
VOCABULARY, CONTEXT = 4096, 8192

folder, size = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "tiny"
layers, hidden, heads, kv_heads, inner = SIZES[size]
os.makedirs(folder, exist_ok=True)


def write(name, content):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(content, file, indent=1)


# Words of three letters out of sixteen; the first four tokens are special.
letters = "abcdefghijklmnop"
special = ["<unk>", "<s>", "</s>", "<pad>"]
words = {name: token for token, name in enumerate(special)}
for token in range(len(special), VOCABULARY):
    word = letters[token >> 8] + letters[token >> 4 & 15] + letters[token & 15]
    words["\u0120" + word] = token  # the byte-level spelling of a space
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens(special)
tokenizer.save(os.path.join(folder, "tokenizer.json"))
write("tokenizer_config.json", {
    "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT,
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
    "clean_up_tokenization_spaces": False,
    "chat_template": "{% for m in messages %} {{ m['content'] }}{% endfor %}",
})
write("config.json", {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
    "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": hidden // heads,
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
    "initializer_range": 0.02, "torch_dtype": "bfloat16", "use_cache": True,
})
write("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3})

random = torch.Generator().manual_seed(0)


def weights(*shape):
    return (torch.randn(*shape, generator=random) * 0.02).to(torch.bfloat16)


head = hidden // heads
tensors = {
    "model.embed_tokens.weight": weights(VOCABULARY, hidden),
    "lm_head.weight": weights(VOCABULARY, hidden),
    "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
}
for layer in range(layers):
    at = f"model.layers.{layer}."
    tensors |= {
        at + "self_attn.q_proj.weight": weights(heads * head, hidden),
        at + "self_attn.k_proj.weight": weights(kv_heads * head, hidden),
        at + "self_attn.v_proj.weight": weights(kv_heads * head, hidden),
        at + "self_attn.o_proj.weight": weights(hidden, heads * head),
        at + "mlp.gate_proj.weight": weights(inner, hidden),
        at + "mlp.up_proj.weight": weights(inner, hidden),
        at + "mlp.down_proj.weight": weights(hidden, inner),
        at + "input_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        at + "post_attention_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
    }
save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
print(f"{folder}: {sum(tensor.numel() for tensor in tensors.values())} parameters")
