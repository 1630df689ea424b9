"""Build the bundles from bundles/source.

    python bundles/build.py                      build all bundles
    python bundles/build.py --check              write nothing, and name the files that are not what this builds
    python bundles/build.py --weights FILE NAME  ship the weights of a training in a bundle, in half precision

source/configs and source/docs are the files of every bundle. Where one says {{word}}, source/NAME.yaml says what stands
there in the bundle NAME. It also holds the files that only this bundle has.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
JSON_TOO = ("train", "evaluate", "inference", "multi_gpu_train")  # some tools of MONAI look for JSON alone


def build(recipe: Path) -> dict[str, str]:
    """Build a bundle.

    Args:
        recipe: The file that says how this bundle differs from the others.

    Returns:
        The text of each file, by its path in the bundle.
    """
    words = {"bundle": recipe.stem, **yaml.safe_load(recipe.read_text(encoding="utf-8"))}
    files = {"LICENSE": (HERE.parent / "LICENSE").read_text(encoding="utf-8"), **words.pop("files")}
    for path in sorted((HERE / "source").glob("*/*")):
        text = path.read_text(encoding="utf-8")
        files[f"{path.parent.name}/{path.name}"] = re.sub(r"\{\{(\w+)\}\}", lambda found: str(words[found[1]]), text)
    for name in JSON_TOO:
        configuration = yaml.safe_load(files[f"configs/{name}.yaml"])
        files[f"configs/{name}.json"] = json.dumps(configuration, indent=2) + "\n"
    return files


def differences(bundle: Path, files: dict[str, str]) -> list[Path]:
    """Find the files of a bundle that differ from what is built, or that are in only one of both."""
    there = [bundle / "LICENSE", *bundle.glob("configs/*"), *bundle.glob("docs/*")]
    found = {path: path.read_text(encoding="utf-8") for path in there if path.is_file()}
    built = {bundle / name: text for name, text in files.items()}
    return sorted(path for path in found.keys() | built.keys() if found.get(path) != built.get(path))


def ship_weights(checkpoint: Path, bundle: Path) -> None:
    """Write the weights of a training into a bundle, in half precision."""
    import torch

    from monai_iln.files import new_file
    from monai_iln.networks import PaperUNet, load_weights

    network = load_weights(PaperUNet(), checkpoint)
    with new_file(bundle / "models" / "model.pt") as partial, partial.open("wb") as file:  # its name is not kept
        torch.save(dict(network.half().state_dict()), file)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    one.add_argument("--weights", nargs=2, type=Path, metavar=("FILE", "NAME"), help="ship weights, and build nothing")
    options = parser.parse_args(arguments)
    if options.weights:
        checkpoint, name = options.weights
        ship_weights(checkpoint, HERE / name)
        return 0
    wrong: list[Path] = []
    for recipe in sorted((HERE / "source").glob("*.yaml")):
        bundle, files = HERE / recipe.stem, build(recipe)
        for name, text in files.items() if not options.check else ():
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            (bundle / name).write_text(text, encoding="utf-8")
        wrong += differences(bundle, files)
    for path in wrong:
        print(f"{path}: is not what bundles/source says. Change it there, and run: python bundles/build.py")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
