from __future__ import annotations

import os
from pathlib import Path

import pytest

from luna_kernel.base import paths
from luna_kernel.base.errors import ConfigError
from luna_kernel.base.settings import Settings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a folder in it, where we are."""
    folder = tmp_path / "project"
    (folder / "inner").mkdir(parents=True)
    (folder / ".git").mkdir()
    monkeypatch.chdir(folder / "inner")
    return folder


def user_file(text: str) -> Path:
    paths.config_dir().mkdir(parents=True, exist_ok=True)
    file = paths.config_dir() / "settings.toml"
    file.write_text(text)
    return file


def test_each_value_comes_from_the_strongest_place(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = user_file(
        "seed = 1\ntop_k = 1\ntop_p = 0.1\nmax_tokens = 1\n[plugin.rag]\nk = 1\nx = 1\n[plugin.own]\na = 1"
    )
    (project / "luna.toml").write_text(
        "seed = 2\ntop_k = 2\ntop_p = 0.2\nplugins = ['moc', 'ssm']\n[plugin.rag]\nk = 2"
    )
    monkeypatch.setenv("LUNA_SEED", "3")
    monkeypatch.setenv("LUNA_TOP_K", "3")
    monkeypatch.setenv("LUNA_MODEL", "")  # empty is not set
    settings = Settings(seed=4, temperature=None)
    assert (settings.seed, settings.top_k, settings.top_p, settings.max_tokens) == (4, 3, 0.2, 1)
    assert settings.plugins == "moc,ssm"
    assert (settings.model, settings.temperature, settings.device) == (None, None, "auto")
    assert settings.plugins_config == {"rag": {"k": 2, "x": 1}, "own": {"a": 1}}
    origins = settings.origins()
    assert origins["seed"] == "command line"
    assert origins["top_k"] == "environment variable LUNA_TOP_K"
    assert origins["top_p"] == origins["plugin.rag"] == str(project / "luna.toml")
    assert origins["max_tokens"] == origins["plugin.own"] == str(user)
    assert origins["device"] == origins["model"] == "default"
    assert set(origins) - {"plugin.rag", "plugin.own"} == set(Settings.model_fields) - {"plugins_config"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("temprature = 1", "'temprature'.*\n.*'temperature'"),
        ("plugins_config = {}", "'plugins_config'"),
        ("zzz = 1", "'zzz'.*\n.*device, docs"),
        ("temperature = 'hot'", "temperature is not valid"),
        ("top_p = 1.5", "top_p is not valid"),
        ("log = 'xml'", "log is not valid"),
        ("seed = ", "not valid TOML.*Invalid value"),
        ("plugin = 3", r"\[plugin\.name\]"),
        ("[plugin]\nrag = 3", r"\[plugin\.name\]"),
        ("[generation]\ntop_k = 1", "'generation'"),
    ],
)
def test_mistakes_in_a_file_name_file_key_and_the_right_one(project: Path, text: str, reason: str) -> None:
    (project / "luna.toml").write_text(text)
    with pytest.raises(ConfigError, match=reason) as failed:
        Settings()
    assert str(project / "luna.toml") in failed.value.text
    assert failed.value.hint


def test_mistakes_elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"command line.*'top_kk'.*\n.*'top_k'"):
        Settings(top_kk=1)
    with pytest.raises(ConfigError, match="command line: max_tokens"):
        Settings(max_tokens=0)
    monkeypatch.setenv("LUNA_TOP_K", "many")
    with pytest.raises(ConfigError, match="environment variable LUNA_TOP_K: top_k"):
        Settings()
    monkeypatch.setenv("LUNA_TOP_K", "5")
    monkeypatch.setenv("LUNA_DEV_DATA", "elsewhere")  # not a setting, and not like one
    assert Settings().top_k == 5
    monkeypatch.setenv("LUNA_TEMPERTURE", "1")
    with pytest.raises(ConfigError, match=r"LUNA_TEMPERTURE.*\n.*'LUNA_TEMPERATURE'"):
        Settings()
    monkeypatch.delenv("LUNA_TEMPERTURE")
    monkeypatch.setenv("LUNA_PLUGINS_CONFIG", "{")
    with pytest.raises(ConfigError, match="LUNA_PLUGINS_CONFIG"):
        Settings()


def test_paths_in_a_file_are_relative_to_it(project: Path) -> None:
    (project / "luna.toml").write_text("docs = 'docs'\nmodel = './runs/a'\npersona = 'ana'")
    settings = Settings()
    assert settings.docs == project / "docs"
    assert settings.model == str(project / "runs" / "a")
    assert settings.persona == "ana"
    assert Settings(docs=Path("here")).docs == Path("here")


def test_the_search_ends_at_the_repository_and_at_home(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "luna.toml").write_text("seed = 1")
    assert Settings().seed is None
    (project / ".git").rmdir()
    assert Settings().seed == 1
    monkeypatch.setenv("HOME", str(project))
    assert Settings().seed is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_stranger_s_file_above_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "luna.toml").write_text("seed = 1")
    os.chown(tmp_path / "luna.toml", 12345, 12345)
    monkeypatch.chdir(tmp_path / "inner")
    assert Settings().seed is None
    monkeypatch.chdir(tmp_path)
    assert Settings().seed == 1


def test_a_removed_current_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert Settings().device == "auto"
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("project")
def test_apply_hands_on_what_light_modules_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LUNA_LANG", "LUNA_LOG", "LUNA_LOG_LEVEL", "LUNA_DATA_DIR"):
        monkeypatch.setenv(name, "")
    Settings(lang="pt-BR", log="json", log_level="info", data_dir=tmp_path / "data").apply()
    assert os.environ["LUNA_LANG"] == "pt_BR"
    assert os.environ["LUNA_LOG"] == "json"
    assert os.environ["LUNA_LOG_LEVEL"] == "info"
    assert paths.models_dir() == tmp_path / "data" / "models"
