"""Holds exported and imported weights to timm and to Hugging Face transformers. See --help of each command.

    python -m venv /tmp/interchange && /tmp/interchange/bin/pip install torch timm transformers safetensors
    cargo build --workspace --bins && cargo build --workspace --example features
    /tmp/interchange/bin/python site-agent/model/scripts/interchange.py compare

Held so far with torch 2.15.0, timm 1.0.31, and transformers 5.24.0 and 4.57.6 (whose own key names differ; files are the same).

compare   exports ViT-S/8 backbones with site-agent, loads them strictly into timm's vit_small_patch8_224 and into
          transformers' ViTModel, and compares CLS features on the same input; then the other way: timm's and
          transformers' own files, and a checkpoint (.pth) as DINO's code saves it, read by site-agent.
fixture   writes tests/fixtures: timm_tiny.safetensors, a small timm network, images, and timm's features of them;
          dino_tiny.pth, the same network as the teacher of a checkpoint of DINO's code; layouts.pth, tensors of every
          float and layout that torch.save knows.
convert   writes a .pth of the published DINO code (or any nested dict of tensors) as safetensors of 32-bit floats. `site-agent
          init-model --from` reads the .pth itself, unless PyTorch before 1.6 saved it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "site-agent/model/tests/fixtures"
BOUND = 1e-4
# One image size and network, as published; what is not the network's does not matter here.
PLAN = """
run = "interchange"
seed = 5

[model]
in_channels = {channels}
init = "fan-in"
head = {{ hidden = 32, bottleneck = 16, prototypes = 64 }}

[training]
steps_per_round = 1
epoch_steps = 1
batch_size = 2

[rounds]
count = 1
sites = ["a", "b"]
quorum = 2
deadline_s = 60
"""


def randomise(network, seed):
    """Weights that make every tensor matter: a swapped bias or norm shows, which the usual start's zeros and ones hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in network.named_parameters():
            noise = torch.randn(values.shape, generator=generator)
            if values.ndim == 1:
                norm = "norm" in name and name.endswith("weight")
                values.copy_(0.1 * noise + (1.0 if norm else 0.0))
            elif name.endswith(("cls_token", "pos_embed")):
                values.copy_(0.5 * noise)
            else:
                values.copy_(noise / values[0].numel() ** 0.5)
    return network.eval()


def timm_small(channels):
    import timm

    return timm.create_model("vit_small_patch8_224", pretrained=False, num_classes=0, in_chans=channels).eval()


def images(channels, count=2, side=224, seed=1):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


class Program:
    """site-agent and the `features` example, in a folder of their own."""

    def __init__(self, programs, folder):
        self.programs, self.folder = Path(programs), Path(folder)

    def agent(self, *arguments):
        command = [self.programs / "site-agent", "--state", self.folder / "state", *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def plan(self, channels):
        path = self.folder / f"plan-{channels}.toml"
        path.write_text(PLAN.format(channels=channels))
        return path

    def features(self, channels, backbone, pixels):
        given, got = self.folder / "images.safetensors", self.folder / "features.safetensors"
        save_file({"images": pixels.contiguous()}, given)
        subprocess.run([self.programs / "examples/features", self.plan(channels), backbone, given, got], check=True)
        return load_file(got)["features"]


def huggingface(folder):
    """ViTModel of an exported folder; loading that leaves or misses a key is a failure."""
    from transformers import ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    network, told = ViTModel.from_pretrained(folder, add_pooling_layer=False, output_loading_info=True)
    left = {key: value for key, value in told.items() if value}
    if left:
        raise SystemExit(f"not a strict load of {folder}: {left}")
    return network.eval()


def compare(arguments):
    import timm
    import transformers

    print(f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__}")
    results = []

    def held(what, ours, theirs):
        difference = (ours - theirs).abs().max().item()
        results.append(difference <= BOUND)
        size = theirs.abs().mean().item()
        verdict = "ok" if difference <= BOUND else f"ABOVE {BOUND}"
        print(f"{what:<72} largest difference {difference:.1e}, features' mean size {size:.2f}  {verdict}", flush=True)

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        folder = Path(folder)
        program = Program(arguments.programs, folder)

        # Out of here. A random network of timm's is the run's first backbone, so that no tensor is 0 or 1 throughout.
        for channels in (1, 3):
            source = folder / f"source-{channels}.safetensors"
            save_file(randomise(timm_small(channels), 11).state_dict(), source)
            plan, model = program.plan(channels), folder / f"first-{channels}.safetensors"
            program.agent("init-model", plan, "--from", source, "--out", model)
            for out_channels in (channels,) if channels == 3 else (1, 3):
                pixels = images(1).repeat(1, out_channels, 1, 1) if channels == 1 else images(3)
                ours = program.features(channels, model, pixels[:, :channels])
                what = f"run of {channels} channel(s), exported with {out_channels}"

                exported = folder / "published.safetensors"
                program.agent("export", model, "--plan", plan, "--channels", out_channels, "--out", exported)
                network = timm_small(out_channels)
                network.load_state_dict(load_file(exported), strict=True)
                held(f"{what}: timm", ours, network(pixels))

                layout = folder / f"hugging-face-{channels}-{out_channels}"
                target = layout / "model.safetensors"
                program.agent(
                    "export", model, "--plan", plan, "--channels", out_channels, "--layout", "hugging-face", "--out", target
                )
                network = huggingface(layout)
                config = json.loads((layout / "config.json").read_text())
                assert network.config.layer_norm_eps == config["layer_norm_eps"] == 1e-6
                held(f"{what}: transformers", ours, network(pixel_values=pixels).last_hidden_state[:, 0])

                again = folder / "again"
                network.save_pretrained(again)
                back = program.features(channels, again / "model.safetensors", pixels[:, :channels])
                held(f"{what}: saved by transformers, read here", back, ours)

        # Into here.
        network = randomise(timm_small(3), 23)
        pixels, expected = images(3, seed=2), network(images(3, seed=2))
        state = network.state_dict()
        classifier = {"head.weight": torch.zeros(10, 384), "head.bias": torch.zeros(10)}
        plain = folder / "timm.safetensors"
        save_file({**state, **classifier}, plain)
        held("timm's file with a classifier, read here", program.features(3, plain, pixels), expected)
        gray = images(1, seed=3)
        held("the same in a plan of 1 channel", program.features(1, plain, gray), network(gray.repeat(1, 3, 1, 1)))

        head = {"module.head.mlp.0.weight": torch.zeros(8, 384), "module.head.last_layer.weight_v": torch.zeros(4, 8)}
        other = randomise(timm_small(3), 31).state_dict()
        checkpoint = {
            "student": {f"module.backbone.{name}": values for name, values in other.items()} | head,
            "teacher": {f"backbone.{name}": values for name, values in state.items()},
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-3}]},
            "epoch": 100,
            "args": argparse.Namespace(arch="vit_small", patch_size=8),
            "dino_loss": {"center": torch.zeros(1, 4)},
        }
        pth, converted = folder / "checkpoint.pth", folder / "checkpoint.safetensors"
        torch.save(checkpoint, pth)
        held("a DINO checkpoint (.pth), its teacher read here", program.features(3, pth, pixels), expected)
        convert(argparse.Namespace(checkpoint=pth, out=converted))
        held("the same, converted to safetensors", program.features(3, converted, pixels), expected)

    if not all(results):
        raise SystemExit("features differ")


def fixture(_):
    timm_fixture()
    dino_fixture()
    layouts_fixture()
    for path in sorted(FIXTURES.iterdir()):
        print(f"{path}: {path.stat().st_size} bytes")


def timm_tiny():
    from functools import partial

    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )
    return randomise(network, 7)


def timm_fixture():
    import timm

    network = timm_tiny()
    pixels = images(1, side=32)
    with torch.no_grad():
        features = network(pixels)
    weights = {f"timm.{name}": values for name, values in network.state_dict().items()}
    everything = {**weights, "images": pixels, "features": features.contiguous()}
    save_file(everything, FIXTURES / "timm_tiny.safetensors", {"made_with": f"timm {timm.__version__}"})


def dino_fixture():
    """What main_dino.py saves, of timm's tiny network; the student's backbone is twice the teacher's."""
    nn = torch.nn

    def network():
        layers = [nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)]
        last = nn.utils.weight_norm(nn.Linear(4, 6, bias=False))
        head = nn.ModuleDict({"mlp": nn.Sequential(*layers), "last_layer": last})
        return nn.ModuleDict({"backbone": timm_tiny(), "head": head})

    torch.manual_seed(13)
    student, teacher, loss = nn.ModuleDict({"module": network()}), network(), nn.Module()
    loss.register_buffer("center", torch.randn(1, 6))
    with torch.no_grad():
        for values in student["module"]["backbone"].parameters():
            values.mul_(2)
    # The last layer's moments alone: those of all parameters would be most of the file.
    last = student["module"]["head"]["last_layer"]
    optimizer = torch.optim.AdamW(last.parameters())
    last(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(
        arch="vit_small", patch_size=8, lr=5e-4, norm_last_layer=False, global_crops_scale=(0.4, 1.0), output_dir=".",
    )
    checkpoint = {
        "student": student.state_dict(),
        "teacher": teacher.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 1,
        "args": arguments,
        "dino_loss": loss.state_dict(),
        "fp16_scaler": None,
    }
    torch.save(checkpoint, FIXTURES / "dino_tiny.pth")


def layouts_fixture():
    import numpy

    values = torch.arange(12.0).reshape(3, 4)
    everything = {
        "half": (values / 4).half(),
        "brain": (values / 4).bfloat16(),
        "double": (values / 4).double(),
        "single": values,
        "transposed": values.t(),
        "rows": values[1:],
        "column": values[:, 2],
        "parameter": torch.nn.Parameter(values[2]),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "integers": values.long(),
        "flags": values > 3,
        "deep": {"er": {0: values[0, :1].clone()}},
        "loss": numpy.float64(3.5),
        "seen": 2**70,
        "names": ["a", b"b", {"c"}],
        "kind": torch.float32,
        "device": torch.device("cpu"),
    }
    torch.save(everything, FIXTURES / "layouts.pth")


def convert(arguments):
    # Published checkpoints carry their command line beside the tensors; nothing else may be unpickled.
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    flat = {}

    def walk(prefix, value):
        if isinstance(value, torch.Tensor):
            flat[prefix] = value.to(torch.float32).contiguous().clone()
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)

    walk("", {key: value for key, value in loaded.items() if key != "optimizer"})
    save_file(flat, arguments.out)
    print(f"{arguments.out}: {len(flat)} tensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("--programs", default=ROOT / "target/debug", help="where site-agent and examples/features are")
    comparing.set_defaults(does=compare)
    commands.add_parser("fixture").set_defaults(does=fixture)
    converting = commands.add_parser("convert")
    converting.add_argument("checkpoint")
    converting.add_argument("out")
    converting.set_defaults(does=convert)
    arguments = parser.parse_args()
    arguments.does(arguments)


if __name__ == "__main__":
    sys.exit(main())
