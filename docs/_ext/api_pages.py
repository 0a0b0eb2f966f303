"""The API pages, written from the package itself: one page a package, no module forgotten."""

from __future__ import annotations

from pathlib import Path

import liveedit_jax

ROOT = Path(liveedit_jax.__file__).parent


def automodule(name: str, members: bool = True) -> list[str]:
    """Document one module, its members in the order of the source."""
    options = ["   :members:", "   :show-inheritance:"] if members else []
    return [f".. automodule:: {name}", *options, ""]


def section(title: str, mark: str) -> list[str]:
    """Write a heading."""
    return [title, mark * len(title), ""]


def module_names(folder: Path) -> list[str]:
    """List the modules of a package folder, in the order of their names."""
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("__"))


def package_page(name: str) -> list[str]:
    """Write the page of one package: its docstring, then its modules."""
    full = f"liveedit_jax.{name}"
    lines = section(full, "=") + automodule(full, members=False)
    for module in module_names(ROOT / name):
        lines += section(f"{name}.{module}", "-") + automodule(f"{full}.{module}")
    return lines


def top_page() -> list[str]:
    """Write the page of the modules that belong to no package."""
    lines = section("Configs, types and other single modules", "=")
    for module in module_names(ROOT):
        lines += section(module, "-") + automodule(f"liveedit_jax.{module}")
    return lines


def first_page() -> list[str]:
    """Write the page of what `import liveedit_jax` gives."""
    lines = section("liveedit_jax", "=") + automodule("liveedit_jax", members=False)
    for name in getattr(liveedit_jax, "__all__", ("open_editor",)):
        found = getattr(liveedit_jax, name)
        if callable(found):
            kind = "autoclass" if isinstance(found, type) else "autofunction"
            lines += [f".. {kind}:: {found.__module__}.{found.__qualname__}", "   :no-index:", ""]
    return lines


def write_pages(folder: Path) -> None:
    """Write all pages; a page that stays as it was is not touched, so that it is not built anew."""
    packages = [file.parent.name for file in ROOT.glob("*/__init__.py")]
    pages = {"liveedit_jax": first_page(), "modules": top_page()}
    pages |= {name: package_page(name) for name in packages}
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, lines in pages.items():
        file, text = folder / f"{name}.rst", "\n".join(lines)
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)


def setup(app) -> dict:
    """Write the pages before Sphinx looks for sources."""
    app.connect(
        "config-inited", lambda app, config: write_pages(Path(app.srcdir) / "api/generated")
    )
    return {"parallel_read_safe": True}
