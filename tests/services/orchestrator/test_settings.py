"""Settings from the environment, in the forms that people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.orchestrator.database import Database
from services.orchestrator.migrate import migrate
from services.orchestrator.settings import Settings


def test_the_broker_is_ours_or_what_everybody_calls_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://there:6379/1")
    assert Settings().broker_url == "redis://there:6379/1"
    monkeypatch.setenv("UNDERSTUDY_BROKER_URL", "unix:///run/redis.sock")
    assert Settings().broker_url == "redis+socket:///run/redis.sock"


def test_a_broker_that_is_no_redis_is_refused() -> None:
    with pytest.raises(ValidationError, match="redis://"):
        Settings(broker_url="amqp://there")


@pytest.mark.parametrize("value", ['["http://a:1", "http://b:2"]', "http://a:1, http://b:2"])
def test_teachers_are_a_json_list_or_separated_by_commas(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("UNDERSTUDY_TEACHER_URLS", value)
    assert Settings().teacher_urls == ("http://a:1", "http://b:2")


@pytest.mark.parametrize("setting", ["teacher_api_key", "student_api_key"])
@pytest.mark.parametrize(
    "value",
    [
        "sk-new",
        "sk-new,sk-old",
        "sk-new\nsk-old\n",
        f"sha256:{'0' * 64}, sk-new, sk-old",
        f"sha256:{'0' * 64}\nsk-new\nsk-old\n",
        '["sk-new", "sk-old"]',
    ],
)
def test_of_all_keys_of_a_service_the_first_whole_one_is_sent_to_it(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.setenv(f"UNDERSTUDY_{setting.upper()}", value)
    assert getattr(Settings(), setting) == "sk-new"


@pytest.mark.parametrize("setting", ["teacher_api_key", "student_api_key"])
def test_keys_of_which_none_can_be_sent_are_refused_by_the_settings_name(setting: str) -> None:
    with pytest.raises(ValidationError, match=f"{setting} has no key that can be sent"):
        Settings(**{setting: f"sha256:{'0' * 64},sha256:{'1' * 64}"})
    assert getattr(Settings(**{setting: " \n"}), setting) is None


def test_what_is_not_named_lies_in_the_home_folder(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path / 'understudy.db'}"
    assert settings.artifact_root == str(tmp_path / "artifacts")
    assert settings.work == tmp_path / "work"


def test_a_lease_that_one_late_beat_would_lose_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least twice heartbeat_seconds"):
        Settings(lease_seconds=1, heartbeat_seconds=1)


@pytest.mark.parametrize("name", ["with spaces", "50%41", "what?", "a#b", "a@b:c"])
def test_the_database_is_a_file_in_its_home_whatever_the_homes_name(name: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / name)
    database = Database(settings.database)
    migrate(database)
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "understudy.db").is_file()
