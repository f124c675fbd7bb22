"""Workers: N threads in one process, each with a loop, a server and an application of its own.

A worker sees the process as if it were alone in it. These modules each make one part of the
process per worker while a group runs:

==============  ==================================================================================
`current`       which worker a thread belongs to
`signals`       ``signal`` and ``threading.main_thread()``
`listeners`     listening sockets: workers that bind one address share one socket
`modules`       ``sys.modules``: each worker imports the application for itself
`finding`       which modules are the application's
`worker`        one worker: its thread, its loop, calls to it
`succession`    new workers in the place of others: on request, after a failure
`group`         the workers of one run: start, failure, signals, end
`events`        what the thread that starts a group waits for
`program`       ``python -m rloop --workers``
==============  ==================================================================================
"""
