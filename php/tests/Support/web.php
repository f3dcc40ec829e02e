<?php

declare(strict_types=1);

// The web page of FpmTest: reads one node, or sends a request and ends before its answer, as a page that is cut off.

use Roster\Client;
use Roster\Timeouts;

require __DIR__ . '/../../autoload.php';

['path' => $path, 'socket' => $socket, 'shared' => $shared] = $_GET;
if (isset($_GET['abandon'])) {
    $flags = STREAM_CLIENT_CONNECT | STREAM_CLIENT_PERSISTENT;
    $stream = stream_socket_client("unix://$socket", $error, $reason, 1, $flags);
    $question = "\x80\x01\x00\x01" . pack('N', 7) . 'getMany' . pack('N', random_int(0, 0x7fffffff))
        . "\x0f\x00\x01\x0b" . pack('N', 1) . pack('N', strlen($path)) . "$path\x0c\x00\x02\x00\x00";
    fwrite($stream, pack('N', strlen($question)) . $question);
    exit(json_encode(['path' => $path, 'worker' => getmypid(), 'abandoned' => true]));
}
// On a busy machine a page may wait for longer than the package's own patience.
$patience = new Timeouts(connectMs: 10_000, readMs: 10_000, totalMs: 20_000);
$node = Client::local($socket, '', $shared, timeouts: $patience)->get($path);
$from = $node?->freshness->from;
echo json_encode(['path' => $node?->path, 'data' => $node?->data, 'worker' => getmypid(), 'from' => $from]);
