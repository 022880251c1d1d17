"""A model that chats, with made-up weights: as fast as one of its size that has learnt something, and nothing to download."""

from __future__ import annotations

import warnings
from pathlib import Path

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen's and others', with the words that say which tools there are.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
Call one as <tool_call>{"name": ..., "arguments": ...}</tool_call>: {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    vocabulary: int = 300,
    context: int = 512,
    spread: float = 0.4,
) -> Path:
    """A Qwen2 with a tokenizer of bytes, the same each time. `spread` of its weights: with a small one all tokens are alike."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    # More than there are bytes: tokens that a large vocabulary has, and no text becomes.
    names += [f"<|unused-{at}|>" for at in range(len(names), vocabulary)]
    tokenizer = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        additional_special_tokens=[SPECIAL[1]],
        eos_token=SPECIAL[2],
        model_max_length=context,
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(names), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=max(1, heads // 2), max_position_embeddings=context,
            bos_token_id=0, pad_token_id=0, eos_token_id=2, tie_word_embeddings=True, initializer_range=spread,
        )
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        model.save_pretrained(folder)
        fast.save_pretrained(folder)
    return folder
