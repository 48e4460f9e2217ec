"""Times the DINO step in PyTorch beside the same step of this project, in turns on the same machine.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install torch
    cargo build --workspace --example step
    /tmp/peer/bin/python site-agent/model/scripts/step_peer.py [demo|small|published] [--turns 3] [--steps 10] [--threads 2]

On a GPU, with `--features model/cuda` added to the build:

    /tmp/peer/bin/python site-agent/model/scripts/step_peer.py published --device cuda --precision bf16

Both take the same sizes: teacher on two global crops, student forward and backward on all, cross-entropy with centering,
clipping of each tensor, AdamW in two groups, the teacher's moving average. PyTorch uses scaled-dot-product attention and the
multi-tensor AdamW, on a GPU the fused one; in bf16 it runs under autocast. What is printed is the fastest step of each turn, and
their ratio; on a GPU the memory is the GPU's.
"""

import argparse
import os
import re
import resource
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[3]
SIZES = {
    "demo": dict(image=48, local=24, locals=2, dim=64, depth=3, heads=4, batch=32, head=(128, 64, 64)),
    "small": dict(image=224, local=96, locals=4, dim=384, depth=12, heads=6, batch=2, head=(2048, 256, 4096)),
    "published": dict(image=224, local=96, locals=8, dim=384, depth=12, heads=6, batch=16, head=(2048, 256, 65536)),
}


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.proj(mixed)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Network(nn.Module):
    def __init__(self, size):
        super().__init__()
        dim, (hidden, bottleneck, k) = size["dim"], size["head"]
        self.patch = nn.Conv2d(1, dim, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos = nn.Parameter(torch.randn(1, (size["image"] // 8) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, size["heads"]) for _ in range(size["depth"]))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last = nn.Parameter(torch.randn(k, bottleneck) * 0.02)

    def features(self, x):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        pos = self.pos
        if patches.shape[1] + 1 != pos.shape[1]:
            side, learnt = int(patches.shape[1] ** 0.5), int((pos.shape[1] - 1) ** 0.5)
            grid = pos[:, 1:].reshape(1, learnt, learnt, -1).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, size=(side, side), mode="bicubic").flatten(2).transpose(1, 2)
            pos = torch.cat([pos[:, :1], grid], 1)
        x = torch.cat([self.cls.expand(len(x), -1, -1), patches], 1) + pos
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def head(self, x):
        return F.normalize(self.mlp(x), dim=1) @ F.normalize(self.last, dim=1).T


def turn(size, steps, device, precision):
    student, teacher = Network(size).to(device), Network(size).to(device)
    teacher.load_state_dict(student.state_dict())
    matrices = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.04}, {"params": others, "weight_decay": 0.0}]
    on_gpu = device == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=1e-3, **({"fused": True} if on_gpu else {"foreach": True}))
    center = torch.zeros(1, size["head"][2], device=device)
    # Crops come from the host, as ours do.
    crops = torch.randn(2 * size["batch"], 1, size["image"], size["image"])
    small_crops = torch.randn(size["locals"] * size["batch"], 1, size["local"], size["local"])
    cast = lambda: torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        images, locals_ = crops.to(device), small_crops.to(device)
        with torch.no_grad(), cast():
            taught = teacher.head(teacher.features(images)).float()
            targets = F.softmax((taught - center) / 0.04, dim=1).chunk(2)
        with cast():
            learnt = student.head(torch.cat([student.features(images), student.features(locals_)])).float()
        logs = F.log_softmax(learnt / 0.1, dim=1).chunk(2 + size["locals"])
        pairs = [-(targets[t] * logs[s]).sum(1).mean() for t in range(2) for s in range(len(logs)) if t != s]
        loss = sum(pairs) / len(pairs)
        optimizer.zero_grad()
        loss.backward()
        for parameter in student.parameters():
            # Without asking a GPU for each norm.
            factor = 3.0 / (parameter.grad.norm() + 1e-6)
            parameter.grad.mul_(factor.clamp(max=1.0) if on_gpu else min(1.0, factor.item()))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 0.004)
            center.mul_(0.9).add_(taught.mean(0, keepdim=True), alpha=0.1)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def ours(example, arguments, threads):
    """Seconds of the fastest step and MiB of memory that an example of this project prints."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    command = [target / "debug/examples" / example, *map(str, arguments)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figure = lambda pattern: float(re.search(pattern, out.stdout)[1])
    return figure(r"fastest ([0-9.]+) s"), figure(r"peak memory ([0-9]+) MiB")


def asked(about):
    """What was typed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=SIZES, nargs="?", default="demo")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    typed = parser.parse_args()
    torch.set_num_threads(typed.threads)
    # As our products of single precision are on a GPU.
    torch.backends.cuda.matmul.allow_tf32 = True
    return typed


class GpuMemory:
    """The most MiB of GPU memory that came into use while it is entered, asked of the driver five times a second."""

    def __enter__(self):
        self.before, self.over = self.used(), threading.Event()
        self.most = self.before
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def used(self):
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def watch(self):
        while not self.over.wait(0.2):
            self.most = max(self.most, self.used())

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def main():
    typed = asked(__doc__)
    on_gpu = typed.device == "cuda"
    pairs, peaks = [], [0, 0]
    for _ in range(typed.turns):
        arguments = [typed.which, typed.steps, typed.device, typed.precision]
        with GpuMemory() if on_gpu else nullcontext() as watched:
            seconds, peak = ours("step", arguments, typed.threads)
        pair = (turn(SIZES[typed.which], typed.steps, typed.device, typed.precision), seconds)
        pairs.append(pair)
        theirs = torch.cuda.max_memory_reserved() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        peaks = [max(peaks[0], theirs >> 20), max(peaks[1], watched.most - watched.before if on_gpu else peak)]
        if on_gpu:
            # What PyTorch keeps for itself between steps is not ours.
            torch.cuda.empty_cache()
        rates = [SIZES[typed.which]["batch"] / seconds for seconds in pair]
        print(
            f"torch {torch.__version__} {pair[0]:.4f} s, {rates[0]:.1f} images/s   "
            f"ours {pair[1]:.4f} s, {rates[1]:.1f} images/s   ratio {pair[1] / pair[0]:.2f}"
        )
    fastest = [min(column) for column in zip(*pairs)]
    print(f"{typed.which}, {typed.threads} threads: ratio of the fastest steps {fastest[1] / fastest[0]:.2f}")
    whose = "of the GPU" if on_gpu else "with its library"
    print(f"peak memory: torch {peaks[0]} MiB {whose}, ours {peaks[1]:.0f} MiB")


if __name__ == "__main__":
    main()
