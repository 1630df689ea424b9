"""What a fresh process loads, and in which order it may load it."""

import importlib
import json
import subprocess
import sys
import textwrap

import pytest
from monai.bundle import ConfigParser

import monai_iln
from monai_iln import registration


def run(code, *options):
    """Run a program in a process of its own; what it prints."""
    command = [sys.executable, *options, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = {"torch", "monai", "ignite", "nibabel", "sklearn", "scipy", "numpy", "pandas", "matplotlib", "PIL", "pydicom"}
# One after another in one process: what one of them loads shows at once.
LOADED = {
    "bare": (HEAVY, ["import monai_iln", "from monai_iln.label import write_app"]),
    "norms": (
        HEAVY - {"torch", "numpy"},
        [
            "from monai_iln import ILN",
            "from monai_iln.norms import MixtureNorm, SwitchableNorm, parameter_groups",
        ],
    ),
    "data and records": (
        {"torch", "monai", "ignite"},
        [
            "import monai_iln.datasets",
            "from monai_iln.datasets import *",
            "from monai_iln.study import statistics, records, report, chance, power, simulation",
        ],
    ),
}


@pytest.mark.parametrize(("unneeded", "statements"), LOADED.values(), ids=LOADED)
def test_what_is_not_needed_is_not_imported(unneeded, statements):
    look = f"print({unneeded} & {{name.partition('.')[0] for name in sys.modules}})"
    told = run("\n".join(["import sys", *(f"{statement}\n{look}" for statement in statements)]))
    assert dict(zip(statements, told.splitlines(), strict=True)) == dict.fromkeys(statements, "set()")


COMMANDS = [
    ["--help"],
    ["--version"],
    ["download", "sunnybrook", "--help"],
    ["prepare", "sunnybrook", "--help"],
    ["prepare", "folders", "--help"],
    ["check", "--help"],
    ["phantom", "--help"],
    ["study", "--help"],
    ["report", "--help"],
    ["simulate", "--help"],
    ["label-app", "--help"],
    ["bundle", "--help"],
    ["benchmark", "layer", "--help"],
]


def test_help_imports_nothing_heavy():
    """One after another in one process, too."""
    told = run(
        f"""
        import contextlib, io, json, sys
        from monai_iln.cli import main
        told = []
        for command in {COMMANDS}:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                try:
                    main(command)
                except SystemExit as end:
                    assert not end.code
            loaded = {HEAVY} & {{name.partition('.')[0] for name in sys.modules}}
            told.append([command, printed.getvalue(), sorted(loaded)])
        print(json.dumps(told))
        """
    )
    for command, printed, loaded in json.loads(told):
        assert not loaded, command
        assert "--version" in command or "usage: monai-iln" in printed, command
        assert len(command) < 2 or "Example" in printed, command


@pytest.mark.slow
def test_prepare_imports_neither_torch_nor_monai(tmp_path, official):
    arguments = ["prepare", "sunnybrook", "--source", str(official), "--output", str(tmp_path / "out")]
    run(
        f"""
        import sys
        from monai_iln.cli import main
        assert main({arguments}) == 0
        assert {{"torch", "monai"}}.isdisjoint(sys.modules)
        """
    )


UNET = "UNet(2, 1, 2, (8, 16), (2,), norm='ILN')"


@pytest.mark.slow
def test_ours_first(tmp_path):
    run(
        f"""
        import importlib, pickle, sys
        import monai_iln
        assert "monai" not in sys.modules and "torch" not in sys.modules
        from monai.networks.nets import UNet
        from monai.networks.layers import factories
        network = {UNET}
        assert any(isinstance(module, monai_iln.ILN) for module in network.modules())
        assert type(factories.__loader__).__module__ != "monai_iln.registration"  # as if we had not been there
        assert factories.__spec__.loader is factories.__loader__
        importlib.reload(factories)
        assert factories.Norm["ILN", 2] is monai_iln.ILN
        finders = len(sys.meta_path)
        importlib.reload(monai_iln)
        assert len(sys.meta_path) == finders and factories.Norm["ILN", 3] is monai_iln.ILN
        with open({str(tmp_path / "network")!r}, "wb") as file:
            pickle.dump(network, file)
        """
    )
    run(
        f"import pickle, sys\npickle.load(open({str(tmp_path / 'network')!r}, 'rb'))\nassert 'monai_iln' in sys.modules"
    )


@pytest.mark.slow
def test_monai_first_and_in_spawned_workers(tmp_path):
    """A worker gets the layer and nothing else: unpickling it registers the norms there, too."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing

            def work(layer):
                from monai.networks.nets import UNet
                return len(list({UNET}.modules())), type(layer).__name__

            if __name__ == "__main__":
                from monai.networks.nets import UNet
                import monai_iln
                network = {UNET}
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    assert pool.apply(work, [monai_iln.ILN(8)]) == (len(list(network.modules())), "InstanceLayerNorm")
            """
        )
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_while_another_thread_imports_monai():
    run(
        """
        import sys, threading, time
        factory = "monai.networks.layers.factories"
        def preempted(frame, event, argument):  # on the first line of the factory
            if frame.f_globals.get("__name__") == factory:
                time.sleep(2)
                sys.settrace(None)
        def other():
            sys.settrace(preempted)
            import monai.networks.nets
        thread = threading.Thread(target=other)
        thread.start()
        while factory not in sys.modules:
            time.sleep(0.001)
        import monai_iln
        thread.join()
        from monai.networks.layers import Norm
        assert Norm["ILN"] is monai_iln.ILN
        """
    )


def test_in_a_configuration():
    parser = ConfigParser({"imports": ["$import monai_iln"], "norm": "$monai_iln.ILN(8)"})
    assert isinstance(parser.get_parsed_content("norm"), monai_iln.ILN)


def test_a_module_is_found_on_the_package():
    assert monai_iln.norms.factory.register is monai_iln.register
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        monai_iln.datasets.nothing  # noqa: B018


def test_other_imports_go_their_way():
    finder = next(finder for finder in sys.meta_path if type(finder).__module__ == registration.__name__)
    assert finder.find_spec("json", None) is None
    assert importlib.util.find_spec(registration.FACTORY) is not None


@pytest.mark.parametrize("package", ["monai_iln", "monai_iln.norms", "monai_iln.datasets", "monai_iln.study"])
def test_public_names(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    # MONAI looks at all names that dir() lists: it must not import what is only there on request.
    assert "__dir__" not in vars(module)
