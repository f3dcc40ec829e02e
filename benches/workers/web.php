<?php
// What `examples/workers/web.php` answers, from the socket that supervisord's `fcgi-program` passes on as descriptor 0.
pcntl_async_signals(true);
$asked = false;
pcntl_signal(SIGTERM, function () use (&$asked) { $asked = true; }, false);
$listener = socket_import_stream(fopen('php://fd/0', 'r'));
while (!$asked) {
    $client = @socket_accept($listener);
    if ($client === false) {
        continue;
    }
    $head = '';
    while (!str_contains($head, "\r\n\r\n") && ($read = socket_read($client, 8_192)) !== false && $read !== '') {
        $head .= $read;
    }
    $body = "/, by " . getmypid() . "\n";
    $head = ['HTTP/1.1 200 OK', 'Content-Type: text/plain', 'Content-Length: ' . strlen($body), 'Connection: close'];
    socket_write($client, implode("\r\n", $head) . "\r\n\r\n$body");
    socket_close($client);
}
