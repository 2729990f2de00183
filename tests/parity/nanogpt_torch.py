"""An independent PyTorch GPT-2 (Radford et al. 2019) and its training, as nanoGPT's public CPU setting has them.

Written from the definition, it shares no code with `research`: pre-norm blocks, tanh-approximated GELU, tied head, no
bias, no dropout; AdamW with warm-up and cosine; batches from random places of one stream of tokens.
"""

import dataclasses
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes and hyperparameters of the public CPU setting."""

    depth: int = 4
    width: int = 128
    heads: int = 4
    context: int = 64
    batch: int = 12
    steps: int = 2000
    warmup: int = 100
    peak: float = 1e-3
    final: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    decay: float = 0.1
    clip: float = 1.0


class Block(nn.Module):
    """Attention and MLP, each on normalised inputs and added to the residual stream."""

    def __init__(self, setting: Setting):
        super().__init__()
        width = setting.width
        self.heads = setting.heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.joined = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        joined = self.joined(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Token ids [batch length] to logits [batch length vocabulary]."""

    def __init__(self, setting: Setting, vocabulary: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, setting.width)
        self.positions = nn.Embedding(setting.context, setting.width)
        self.blocks = nn.ModuleList(Block(setting) for _ in range(setting.depth))
        self.final_norm = nn.LayerNorm(setting.width, bias=False)
        for name, parameter in self.named_parameters():
            residual = name.endswith(("output.weight", "down.weight"))
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * setting.depth) if residual else 0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x) @ self.tokens.weight.T


def loss_of(model: GPT2, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean cross entropy in nats per token."""
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def learning_rate(setting: Setting, step: int) -> float:
    """Linear warm-up that starts above zero, then half a cosine down to `final`; step 0 is the first."""
    if step < setting.warmup:
        return setting.peak * (step + 1) / (setting.warmup + 1)
    done = (step - setting.warmup) / (setting.steps - setting.warmup)
    return setting.final + 0.5 * (1 + math.cos(math.pi * done)) * (setting.peak - setting.final)


def new_optimizer(model: GPT2, setting: Setting) -> torch.optim.AdamW:
    """AdamW that decays matrices (embeddings among them) and leaves the scales of norms alone."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": setting.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=setting.peak, betas=setting.betas)


def train_step(
    model: GPT2, optimizer: torch.optim.AdamW, setting: Setting, step: int, inputs: torch.Tensor, targets: torch.Tensor
) -> float:
    """Changes the model by one update; returns the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(setting, step)
    optimizer.zero_grad()
    loss = loss_of(model, inputs, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), setting.clip)
    optimizer.step()
    return loss.item()


def train(setting: Setting, tokens: np.ndarray, vocabulary: int, seed: int) -> GPT2:
    """Trains a new model on a stream of tokens."""
    torch.manual_seed(seed)
    model = GPT2(setting, vocabulary)
    optimizer = new_optimizer(model, setting)
    stream = torch.from_numpy(tokens.astype(np.int64))
    for step in range(setting.steps):
        starts = torch.randint(len(stream) - setting.context, (setting.batch, 1))
        rows = stream[starts + torch.arange(setting.context + 1)]
        train_step(model, optimizer, setting, step, rows[:, :-1], rows[:, 1:])
    return model


@torch.no_grad()
def stream_loss(model: GPT2, tokens: np.ndarray, length: int) -> float:
    """Nats per token of a whole stream, in rows of `length` one after the other; the last row is shorter."""
    stream = torch.from_numpy(tokens.astype(np.int64))
    whole = (len(stream) - 1) // length * length
    inputs, targets = stream[:whole].view(-1, length), stream[1 : whole + 1].view(-1, length)
    total = sum(
        loss_of(model, some, wanted).item() * wanted.numel()
        for some, wanted in zip(inputs.split(128), targets.split(128), strict=True)
    )
    if whole < len(stream) - 1:
        total += loss_of(model, stream[None, whole:-1], stream[None, whole + 1 :]).item() * (len(stream) - 1 - whole)
    return total / (len(stream) - 1)
