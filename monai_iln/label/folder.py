"""The folder of a MONAI Label app. Written without MONAI Label, which has an environment of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_iln.bundle import copy_bundle
from monai_iln.errors import UserError
from monai_iln.files import new_folder, require_new

REQUIRED = ("configs/inference.yaml", "configs/metadata.json", "models/model.pt")
_MAIN = "from monai_iln.label.app import LabelApp  # noqa: F401 - the server looks for it here\n"
_README = """# MONAI Label app

Written by `monai-iln label-app`. In an environment with `monailabel` and `monai_iln`:

    monailabel start_server --app . --studies DIR --host 127.0.0.1

DIR holds NIfTI, NRRD or MetaImage stacks, one file for each phase of the heart. Without `--host` the server listens to
the whole network, and lets everyone in. Models:

{models}

A training replaces `models/model.pt` of its model here when it scores higher, and keeps the first weights as
`models/shipped.pt`. The bundle that this is a copy of stays as it is.
"""


def write_app(folder: Path | str, bundles: Sequence[Path | str]) -> Path:
    """Write a folder that a MONAI Label server runs, with copies of trained bundles.

    It holds ``main.py`` (one line, which needs ``monai_iln`` and ``monailabel`` installed), ``README.md`` and
    ``model/NAME`` for each bundle, without the data and results of its trainings.

    Args:
        folder: The folder to write. It must not exist, or be empty. It appears whole or not at all.
        bundles: The folders of the bundles. Their names become those of the models. All checkpoints in ``models`` come
            along.

    Returns:
        The folder.

    Raises:
        UserError: If the folder is in use or lies in a bundle, a path is no bundle with weights, or two bundles have
            one name.
    """
    folder = Path(folder)
    named: dict[str, Path] = {}
    for bundle in map(Path, bundles):
        _require_bundle(bundle)
        source = bundle.resolve()
        twin = named.setdefault(source.name, source)
        if twin != source:
            raise UserError(
                f"{bundle}: has the name of {twin}. A model is called by the name of its bundle's folder: rename one."
            )
        if source in (folder.resolve(), *folder.resolve().parents):
            raise UserError(f"{folder}: lies in {bundle}. A bundle is not copied into itself: choose another folder.")
    if not named:
        raise UserError("no bundles. An app offers at least one model: give the folder of a bundle.")
    require_new(folder)
    with new_folder(folder) as partial:
        for name, source in named.items():
            copy_bundle(source, partial / "model" / name)
        (partial / "main.py").write_text(_MAIN, encoding="utf-8")
        models = "\n".join(f"- `{name}`" for name in named)
        (partial / "README.md").write_text(_README.format(models=models), encoding="utf-8")
    return folder


def _require_bundle(path: Path) -> None:
    missing = [name for name in REQUIRED if not (path / name).is_file()]
    if "models/model.pt" in missing and len(missing) == 1:
        raise UserError(
            f"{path}: a bundle without weights, {path / 'models' / 'model.pt'} is missing. The server would not offer "
            "it: train the bundle first, or put its weights there."
        )
    if missing:
        raise UserError(
            f"{path}: no bundle, {', '.join(missing)} missing. An app is made of MONAI bundles: give the folder that "
            "holds configs and models."
        )
