"""Joins a serverset by kazoo, as an ephemeral sequential node: CONNECT PATH PORT."""

import json
import sys
import time

from kazoo.client import KazooClient

connect, path, port = sys.argv[1:]
client = KazooClient(hosts=connect, timeout=4)
client.start()
endpoint = {'host': '10.0.0.5', 'port': int(port)}
data = json.dumps({'serviceEndpoint': endpoint, 'additionalEndpoints': {}, 'status': 'ALIVE'})
client.create(f'{path}/member_', data.encode(), ephemeral=True, sequence=True, makepath=True)
time.sleep(3_600)
