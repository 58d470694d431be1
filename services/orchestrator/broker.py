"""Celery on Redis or Valkey: the settings, and how a message is sent. Messages carry the id of a work item only.

Every setting answers a way in which work was lost, done twice or never taken up; see the comments. What matters most is
not here: the truth is in the store, so a message may come twice or not at all.
"""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import OperationalError

from services.orchestrator.context import Send
from services.orchestrator.database import Database
from services.orchestrator.jobs import Queue
from services.orchestrator.migrate import prepare
from services.orchestrator.settings import Settings
from understudy.errors import Unavailable

__all__ = ["TASK", "create_celery", "sender"]

TASK = "understudy.run_item"


def create_celery(settings: Settings) -> Celery:
    """The app of one installation, which is known by its database: several may share one broker."""
    database = Database(settings.database)
    prepare(database)
    prefix = f"understudy-{database.installation()}:"
    database.close()
    app = Celery("understudy", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        # A message is JSON and nobody waits for an answer: results are in SQL.
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # A message stays with the broker until its item was worked on, so that a killed worker loses none of them.
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=True,
        task_default_queue="control",
        task_create_missing_queues=True,
        # Take a message only when a thread is free: one that is hoarded waits behind a training for an hour. Celery
        # counts the requests at work for that. Kombu's own count (multiplier 0: none) must not limit as well: it never
        # gets a slot back whose message could not be acknowledged while the broker was away, and with none left the
        # worker asks for nothing, so that it does not even notice the broken connection.
        worker_prefetch_multiplier=0,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        # A broker that comes back is used again, however long it was away.
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        broker_pool_limit=4,
        broker_transport_options={
            # Of every key: installations that share a Redis must not take each other's messages, nor restore them.
            "global_keyprefix": prefix,
            "visibility_timeout": settings.visibility_timeout,
            # With the defaults a killed worker's message was still away after a minute.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Notice a connection that is gone: without these a worker was alive and consumed nothing.
            "health_check_interval": 10,
            "socket_connect_timeout": 4,
            "socket_timeout": 20,
            "socket_keepalive": not settings.broker_url.startswith("redis+socket"),
            "retry_on_timeout": True,
            # Sending gives up at once: the sweep tries again, and a request must not wait for a broker.
            "max_retries": 0,
            "connect_retries_timeout": 2,
        },
    )
    return app


def sender(app: Celery) -> Send:
    def send(item_id: str, queue: Queue) -> None:
        try:
            app.send_task(TASK, args=[item_id], queue=queue, retry=False)
        except (OperationalError, OSError) as error:
            raise Unavailable(f"the broker does not answer: {error}") from error

    return send
