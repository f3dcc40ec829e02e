"""Writes what a member of a cluster does, with Patroni's own code, and then goes on to do so: CONNECT NAME PORT ROLE.
The one whose role is `primary` takes the lead."""

import sys
import time

from patroni.dcs import get_dcs

connect, name, port, role = sys.argv[1:]
dcs = get_dcs({
    'name': name, 'scope': 'pg', 'namespace': 'patroni', 'ttl': 4, 'loop_wait': 1, 'retry_timeout': 3,
    'zookeeper': {'hosts': connect},
})
while True:
    dcs.get_cluster()
    data = {
        'conn_url': f'postgres://10.0.0.8:{port}/postgres', 'api_url': f'http://10.0.0.8:8008/patroni',
        'state': 'running', 'role': role, 'version': '3.0.2', 'xlog_location': int(time.time()), 'timeline': 1,
    }
    dcs.touch_member(data)
    if role == 'primary':
        dcs.attempt_to_acquire_leader()
    time.sleep(0.3)
