"""What a Celery worker of `benchmarks.dag_peers` imports."""

import os

from celery import Celery

from benchmarks.trivial import increment

app = Celery("bench", broker=os.environ["CELERY_REDIS"], backend=os.environ["CELERY_REDIS"])
add_one = app.task(increment)
