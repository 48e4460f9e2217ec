"""Times a step of finetuning in PyTorch beside the same step of this project, in turns on the same machine.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install torch
    cargo build --workspace --example finetune
    /tmp/peer/bin/python site-agent/model/scripts/finetune_peer.py [demo|small] [--turns 3] [--steps 10] [--threads 2]

Both take the same sizes: the backbone and a linear layer on CLS with cross-entropy (sequence), or with the decoder on the tokens
between its blocks, Dice and cross-entropy over pixels (cine-sax-segmentation); clipping of the whole gradient, AdamW with a rate for
each layer. PyTorch computes in float32 with scaled-dot-product attention and the multi-tensor AdamW. What is printed is the
fastest step of each turn, and their ratio.
"""

import resource
import time

import torch
import torch.nn.functional as F
from torch import nn

from step_peer import Block, asked, ours

TASKS = {"sequence": 3, "cine-sax-segmentation": 3}
SIZES = {
    "demo": dict(image=48, scale=2, dim=64, depth=3, heads=4, batch=8),
    "small": dict(image=224, scale=1, dim=384, depth=12, heads=6, batch=2),
}
LEVELS = 3


class Backbone(nn.Module):
    def __init__(self, size):
        super().__init__()
        dim = size["dim"]
        self.patch = nn.Conv2d(1, dim, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos = nn.Parameter(torch.randn(1, (size["image"] // 8) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, size["heads"]) for _ in range(size["depth"]))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x, after=()):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        pos = self.pos
        if patches.shape[1] + 1 != pos.shape[1]:
            side, learnt = int(patches.shape[1] ** 0.5), int((pos.shape[1] - 1) ** 0.5)
            grid = pos[:, 1:].reshape(1, learnt, learnt, -1).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, size=(side, side), mode="bicubic").flatten(2).transpose(1, 2)
            pos = torch.cat([pos[:, :1], grid], 1)
        x = torch.cat([self.cls.expand(len(x), -1, -1), patches], 1) + pos
        between = {}
        for place, block in enumerate(self.blocks, 1):
            x = block(x)
            if place in after:
                between[place] = x
        return self.norm(x), between


class Decoder(nn.Module):
    def __init__(self, size, outputs):
        super().__init__()
        dim, depth = size["dim"], size["depth"]
        base = max(16, -(-(dim // 12) // 8) * 8)
        width = lambda level: base << level
        self.after = [max(1, -(-depth * part // (LEVELS + 1))) for part in range(1, LEVELS + 1)]
        self.tokens = nn.Conv2d(dim, width(LEVELS), 1)
        self.first = nn.InstanceNorm2d(width(LEVELS), affine=True)
        levels = []
        for level in reversed(range(LEVELS)):
            own, fold = width(level), 1 << (LEVELS - level)
            levels.append(
                nn.ModuleDict(
                    dict(
                        up=nn.ConvTranspose2d(width(level + 1), own, 2, 2),
                        skip=nn.ConvTranspose2d(dim, own, fold, fold),
                        norm=nn.InstanceNorm2d(own, affine=True),
                        one=nn.Conv2d(2 * own + (level == 0), own, 3, padding=1),
                        one_norm=nn.InstanceNorm2d(own, affine=True),
                        other=nn.Conv2d(own, own, 3, padding=1),
                        other_norm=nn.InstanceNorm2d(own, affine=True),
                    )
                )
            )
        self.levels = nn.ModuleList(levels)
        self.last = nn.Conv2d(base, outputs, 1)

    def forward(self, images, tokens, between):
        side = images.shape[-1] // 8
        grid = lambda x: x[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side)
        x = F.gelu(self.first(self.tokens(grid(tokens))))
        for level, layer in zip(reversed(range(LEVELS)), self.levels):
            skip = F.gelu(layer["norm"](layer["skip"](grid(between[self.after[level]]))))
            joined = [layer["up"](x), skip] + ([images] if level == 0 else [])
            x = F.gelu(layer["one_norm"](layer["one"](torch.cat(joined, 1))))
            x = F.gelu(layer["other_norm"](layer["other"](x)))
        return self.last(x)


def dice_and_cross_entropy(logits, masks):
    classes = logits.shape[1]
    chances, truth = logits.softmax(1), F.one_hot(masks, classes).permute(0, 3, 1, 2).float()
    both, all_ = (chances * truth).sum((0, 2, 3)), (chances + truth).sum((0, 2, 3))
    dice = 1 - ((2 * both + 1) / (all_ + 1))[1:].mean()
    return dice + F.cross_entropy(logits, masks)


def turn(size, task, steps):
    outputs = TASKS[task]
    is_segmentation = task != "sequence"
    backbone = Backbone(size)
    head = Decoder(size, outputs + 1) if is_segmentation else nn.Linear(size["dim"], outputs)
    side = size["image"] * (size["scale"] if is_segmentation else 1)
    images = torch.randn(size["batch"], 1, side, side)
    masks = torch.randint(0, outputs + 1, (size["batch"], side, side))
    classes = torch.randint(0, outputs, (size["batch"],))
    layers = [list(block.parameters()) for block in backbone.blocks]
    embedding = [backbone.cls, backbone.pos, *backbone.patch.parameters()]
    groups = [dict(params=[*head.parameters(), *backbone.norm.parameters()], lr=1e-3), dict(params=embedding, lr=1e-4)]
    groups += [dict(params=layer, lr=1e-3 * 0.75 ** (len(layers) - place)) for place, layer in enumerate(layers)]
    optimizer = torch.optim.AdamW(groups, foreach=True, weight_decay=0.05)
    all_ = [parameter for group in groups for parameter in group["params"]]
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        tokens, between = backbone(images, head.after if is_segmentation else ())
        if is_segmentation:
            loss = dice_and_cross_entropy(head(images, tokens, between), masks)
        else:
            loss = F.cross_entropy(head(tokens[:, 0]), classes, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(all_, 5.0)
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main():
    typed = asked(__doc__)
    for task in TASKS:
        pairs = []
        for _ in range(typed.turns):
            seconds, peak = ours("finetune", [typed.which, task, typed.steps], typed.threads)
            pairs.append((turn(SIZES[typed.which], task, typed.steps), seconds))
        theirs, mine = (min(column) for column in zip(*pairs))
        print(
            f"{typed.which}, {task}: torch {torch.__version__} {theirs:.4f} s, ours {mine:.4f} s, ratio {mine / theirs:.2f}; "
            f"peak memory ours {peak:.0f} MiB, torch up to now {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
        )


if __name__ == "__main__":
    main()
