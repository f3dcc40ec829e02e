<?php
// A web server: each of its processes takes connections from the socket that all of them inherit, one after the other.
require __DIR__ . '/../../php/autoload.php';

/** The head of a request, if it comes within two seconds. */
function head($client): string
{
    stream_set_timeout($client, 0, 200_000);
    $head = '';
    $until = microtime(true) + 2;
    while (!str_contains($head, "\r\n\r\n") && strlen($head) < 16_384 && !feof($client) && microtime(true) < $until) {
        $head .= fread($client, 8_192);
    }
    return $head;
}

$worker = Roster\Worker::fromEnvironment();
$serve = function ($listener) use ($worker) {
    // Another process may have taken it.
    $client = @stream_socket_accept($listener, 0);
    if ($client === false) {
        return;
    }
    $isRequest = preg_match('~^GET (\S+) HTTP/1\.~', head($client), $request) === 1;
    $status = $isRequest ? '200 OK' : '400 Bad Request';
    $body = $isRequest ? "$request[1], by $worker->id\n" : "only GET is understood\n";
    $head = ["HTTP/1.1 $status", 'Content-Type: text/plain', 'Content-Length: ' . strlen($body), 'Connection: close'];
    fwrite($client, implode("\r\n", $head) . "\r\n\r\n$body");
    fclose($client);
};
foreach ($worker->listeners() as $listener) {
    $worker->watch($listener, $serve);
}
$worker->ready();
$worker->run();
