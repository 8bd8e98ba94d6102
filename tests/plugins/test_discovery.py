"""The walk over the metadata finds what `importlib.metadata` finds."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.plugins.discovery import GROUP, discover


def install(folder: Path, name: str, version: str, points: str, *, kind: str = "dist-info") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.{kind}"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\nName: of something else\n"
    (info / ("METADATA" if kind == "dist-info" else "PKG-INFO")).write_text(head)
    (info / "entry_points.txt").write_text(points)


def as_importlib_does(path: list[str] | None = None) -> set[tuple[str, str, str, str]]:
    distributions = importlib.metadata.distributions(path=path) if path else importlib.metadata.distributions()
    return {
        (point.name, point.value, str(dist.metadata["Name"]), dist.version)
        for dist in distributions
        for point in dist.entry_points
        if point.group == GROUP
    }


def as_luna_does(path: list[str] | None = None) -> set[tuple[str, str, str, str]]:
    return {(plugin.name, plugin.target, plugin.distribution, plugin.version) for plugin in discover(path).values()}


def test_this_environment() -> None:
    assert as_luna_does() == as_importlib_does()


POINTS = st.lists(
    st.tuples(
        st.sampled_from([GROUP, "console_scripts", "luna.plugins.old"]),
        st.sampled_from(
            ["{n} = pkg.{n}", "{n}=pkg.{n}", "  {n}   =  pkg.{n}:attribute  ", "# {n} = off", "; {n} = off"]
        ),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(POINTS)
def test_as_importlib_reads_it(points: list[tuple[str, str]]) -> None:
    import tempfile

    text = "".join(f"[{group}]\n{line.format(n=f'p{i}')}\n\n" for i, (group, line) in enumerate(points))
    with tempfile.TemporaryDirectory() as name:
        install(Path(name), "luna-plugin-x", "1.2.3", text)
        assert as_luna_does([name]) == as_importlib_does([name])


def test_the_first_of_one_name_wins_and_a_rival_is_told(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    install(first, "luna-plugin-x", "2", f"[{GROUP}]\nx = new\n")
    install(second, "luna-plugin-x", "1", f"[{GROUP}]\nx = old\n", kind="egg-info")
    install(second, "another-x", "1", f"[{GROUP}]\nx = another\n")
    found = discover([str(first), str(tmp_path / "gone"), str(second)])["x"]
    assert (found.target, found.distribution, found.version, found.rivals) == (
        "new", "luna-plugin-x", "2", ["another-x"],
    )  # fmt: skip


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    install(tmp_path, "luna-plugin-x", "1", f"[{GROUP}]\nno target\nx = found\n")
    (tmp_path / "empty-1.dist-info").mkdir()
    (tmp_path / "file-1.dist-info").write_text("not a folder")
    assert list(discover([str(tmp_path)])) == ["x"]
