"""What pyproject.toml cannot say: the bundles lie beside the package in the repository, and inside it in the wheel."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("LICENSE", "configs/*", "docs/*", "models/model.pt")  # and nothing that a training left there


class BuildWithBundles(build_py):
    """Copies the bundles into the package that is built; an editable installation finds them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in _bundle_files():
                target = Path(self.build_lib, "monai_iln", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, _bundle_files())]  # of the source distribution


def _bundle_files() -> list[Path]:
    return [file for pattern in SHIPPED for file in sorted(Path("bundles").glob(f"*_iln/{pattern}"))]


setup(cmdclass={"build_py": BuildWithBundles})
